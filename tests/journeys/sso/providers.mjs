// Two certified OpenID providers (npm oidc-provider) in one process, as settings on stdin say:
// {modules, providers: [{host, pem, people: {login: {email, ...}}, client: {...}}]}.
// Prints the issuers as one line of JSON, and ends with its standard input.
import { createRequire } from "node:module";
import { createServer } from "node:https";
import { readFileSync } from "node:fs";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const settings = JSON.parse((await lines.next()).value);
const found = createRequire(`${settings.modules}/x.js`).resolve("oidc-provider");
const { Provider } = await import(pathToFileURL(found));

function keys() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", kid: randomBytes(8).toString("hex") }] };
}

function listen(server) {
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server.address().port)));
}

async function start({ host, pem, people, client }) {
  const certificate = readFileSync(pem);
  const server = createServer({ key: certificate, cert: certificate });
  const issuer = `https://${host}:${await listen(server)}`;
  const provider = new Provider(issuer, {
    clients: [client],
    jwks: keys(),
    cookies: { keys: [randomBytes(32).toString("hex")] },
    conformIdTokenClaims: false,
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
    features: {
      devInteractions: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      backchannelLogout: { enabled: true },
    },
    // Its own guard keeps it from loopback, where the platform under test listens.
    fetch: (url, { dispatcher: _, ...options }) => fetch(url, options),
    pkce: { required: () => true },
    findAccount: (_, login) =>
      people[login] && { accountId: login, claims: () => ({ sub: login, ...people[login] }) },
  });
  for (const event of ["server_error", "backchannel.error"])
    provider.on(event, (_, error) => process.stderr.write(`${event}: ${error.cause ?? error.stack}\n`));
  server.on("request", provider.callback());
  return issuer;
}

const issuers = [];
for (const one of settings.providers) issuers.push(await start(one));
process.stdout.write(`${JSON.stringify(issuers)}\n`);
await lines.next();
process.exit(0);
