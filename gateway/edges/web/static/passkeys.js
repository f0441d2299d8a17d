// Lets a button of the page ask this browser's authenticator, and tells the gateway what it answered.
// A button names what it does in data attributes: data-kind (create or get), data-begin and data-finish (routes of this
// site), data-csrf or data-code (what is sent with both), data-next (where to go on). No inline script,
// no library; browser.js is loaded before it.
"use strict";

const toBytes = (text) => {
  const base64 = text.replaceAll("-", "+").replaceAll("_", "/");
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
};

const toText = (buffer) => {
  const characters = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
  return btoa(characters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
};

const withBytes = (options) => ({
  ...options,
  challenge: toBytes(options.challenge),
  ...(options.user && { user: { ...options.user, id: toBytes(options.user.id) } }),
  ...(options.excludeCredentials && {
    excludeCredentials: options.excludeCredentials.map((known) => ({ ...known, id: toBytes(known.id) })),
  }),
});

const asJson = (credential) => {
  const { response } = credential;
  const answer = { clientDataJSON: toText(response.clientDataJSON) };
  if (response.attestationObject) {
    answer.attestationObject = toText(response.attestationObject);
    answer.transports = response.getTransports ? response.getTransports() : [];
  } else {
    answer.authenticatorData = toText(response.authenticatorData);
    answer.signature = toText(response.signature);
    answer.userHandle = response.userHandle ? toText(response.userHandle) : null;
  }
  return {
    id: credential.id,
    rawId: toText(credential.rawId),
    type: credential.type,
    clientExtensionResults: {},
    response: answer,
  };
};

const ceremony = async ({ kind, begin, finish, csrf, code }) => {
  const known = csrf ? { csrf } : { code };
  const publicKey = withBytes(await gateway.post(begin, known));
  const credential =
    kind === "create" ? await navigator.credentials.create({ publicKey }) : await navigator.credentials.get({ publicKey });
  const body = { ...known, credential: asJson(credential) };
  const name = document.getElementById("passkey-name");
  if (kind === "create" && name) body.name = name.value;
  const elsewhere = document.getElementById("elsewhere");
  if (elsewhere) body.elsewhere = elsewhere.checked;
  await gateway.post(finish, body);
};

const status = document.getElementById("status");
for (const button of document.querySelectorAll("button[data-kind]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    status.textContent = "Waiting for your passkey …";
    try {
      await ceremony(button.dataset);
      if (button.dataset.next) {
        window.location.assign(button.dataset.next);
      } else {
        document.getElementById("ask")?.remove();
        status.textContent = "Done. Go back to your terminal; this page can be closed.";
      }
    } catch (error) {
      status.textContent = error.name === "NotAllowedError" ? "No passkey has answered." : error.message;
      button.disabled = false;
    }
  });
}
if (!window.PublicKeyCredential) status.textContent = "This browser has no passkeys here: it needs https, or localhost.";
