/**
 * Variables that Node and its libraries would obey: its own (`NODE_OPTIONS`, `NODE_V8_COVERAGE`, `NODE_EXTRA_CA_CERTS`,
 * `NODE_CHANNEL_FD`, …), libuv's, OpenSSL's, ICU's. They are meant for other programs of the user. The executable hides them from
 * Node by the case of their first letter (scripts/hide-environment.ts); programs that banger starts get them as they were.
 */
export const HIDDEN_PREFIXES = [
  'NODE_',
  'UV_',
  'OPENSSL_',
  'OSSL_',
  'SSL_',
  'SSLKEYLOGFILE',
  'QLOGDIR',
  'ICU_',
] as const;

/** The bit that makes a capital letter a small one. */
export const HIDING_BIT = 0x20;

/** A copy of the environment with the hidden variables by their names. */
export function environmentOfPrograms(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).map(([name, value]) => [nameBefore(name), value]));
}

function nameBefore(name: string): string {
  const before = name.charAt(0).toUpperCase() + name.slice(1);
  return HIDDEN_PREFIXES.some((prefix) => before.startsWith(prefix)) ? before : name;
}
