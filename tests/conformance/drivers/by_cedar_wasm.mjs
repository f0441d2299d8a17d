// Cedar's own build for JavaScript answers what it is asked: {schema, policies, calls: [{principal, action, resource,
// context, entities}]} on standard input; for each call the decision, the policies behind it and the errors, in order.
import { readFileSync } from "node:fs";
import * as cedar from "@cedar-policy/cedar-wasm/nodejs";

const { schema, policies, calls } = JSON.parse(readFileSync(0, "utf8"));
for (const parsed of [cedar.preparseSchema("ours", schema), cedar.preparsePolicySet("ours", { staticPolicies: policies })]) {
  if (parsed.type !== "success") throw new Error(JSON.stringify(parsed.errors));
}
const answers = calls.map((call) => {
  const named = { preparsedSchemaName: "ours", preparsedPolicySetId: "ours", validateRequest: true };
  const told = cedar.statefulIsAuthorized({ ...call, ...named });
  if (told.type !== "success") return { errors: told.errors.map((error) => error.message) };
  const { decision, diagnostics } = told.response;
  return { decision, reasons: diagnostics.reason.sort(), errors: diagnostics.errors.map((error) => error.policyId) };
});
process.stdout.write(JSON.stringify(answers));
