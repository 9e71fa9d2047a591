// A certified OpenID Connect provider on the loopback: PORT CLIENT_ID CLIENT_SECRET REDIRECT_URI, and people as JSON on
// standard input, {"eve": {"name": "Eve", "email": "…", "groups": ["web"]}}; each later line of it replaces them. Any password is right.
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'
import Provider from 'oidc-provider'

console.info = console.warn = console.error // its notices; standard output is ours

const [port, client_id, client_secret, redirect] = process.argv.slice(2)
let people = {}

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{ client_id, client_secret, redirect_uris: [redirect], token_endpoint_auth_method: 'client_secret_post' }],
  claims: { openid: ['sub'], profile: ['name', 'preferred_username', 'groups'], email: ['email', 'email_verified'] },
  cookies: { keys: ['only for tests'] },
  findAccount: (_, id) => people[id] && { accountId: id, claims: async () => ({ sub: id, preferred_username: id, ...people[id] }) },
})

createInterface({ input: process.stdin }).on('line', (line) => { people = JSON.parse(line); console.log('known') })
createServer(provider.callback()).listen(Number(port), '127.0.0.1', () => console.log('ready'))
