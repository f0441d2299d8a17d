// An identity provider for the tests, by `oidc-provider` (certified): node provider.mjs PORT REDIRECT_URI BACKCHANNEL_LOGOUT_URI
// It asks for a name and believes it. POST /test/people {name, disabled, groups} is the operator's console.
import Provider from 'oidc-provider';

const [port, redirectUri, backchannelLogoutUri] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const people = new Map();

function person(name) {
  if (!people.has(name)) people.set(name, { disabled: false, groups: ['engineers'] });
  return people.get(name);
}

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'gw',
      client_secret: 'a-secret-of-the-tests',
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      redirect_uris: [redirectUri],
      post_logout_redirect_uris: [issuer],
      backchannel_logout_uri: backchannelLogoutUri,
      backchannel_logout_session_required: true,
    },
  ],
  cookies: { keys: ['of-the-tests'] },
  claims: { openid: ['sub'], profile: ['name', 'preferred_username', 'groups'] },
  scopes: ['openid', 'offline_access'],
  features: { backchannelLogout: { enabled: true }, rpInitiatedLogout: { enabled: true } },
  async findAccount(_ctx, name) {
    const found = person(name);
    if (found.disabled) return undefined;
    return {
      accountId: name,
      claims: () => ({ sub: name, name, preferred_username: name, groups: found.groups }),
    };
  },
  async issueRefreshToken() {
    return true;
  },
  rotateRefreshToken: true,
  // Its own fetch refuses addresses of this machine, where the gateway under test is.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  async loadExistingGrant(ctx) {
    const grant = new ctx.oidc.provider.Grant({
      clientId: ctx.oidc.client.clientId,
      accountId: ctx.oidc.session.accountId,
    });
    grant.addOIDCScope('openid profile email offline_access');
    await grant.save();
    return grant;
  },
});

provider.use(async (ctx, next) => {
  if (ctx.path !== '/test/people') return next();
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  const { name, ...told } = JSON.parse(Buffer.concat(chunks));
  Object.assign(person(name), told);
  ctx.body = person(name);
});

provider.on('server_error', (_ctx, error) => console.error(error));
provider.on('backchannel.error', (_ctx, error) => console.error('backchannel', error));
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
