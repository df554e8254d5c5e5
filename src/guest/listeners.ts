/** The TCP ports a guest listens on: the output of `ss`, or the kernel's own tables where there is no `ss`. */
import { isIPv4, SocketAddress } from 'node:net';

/** One listening socket. */
export interface Listener {
  /** as text, e.g. `0.0.0.0`, `127.0.0.1`, `::`; `*` for every address of both families */
  address: string;
  port: number;
  processes: ListeningProcess[];
}

export interface ListeningProcess {
  name: string;
  pid: number;
}

/** Who can connect: every host that reaches the VM, the guest alone, or neighbours of another network in it. */
export type Reach = 'network' | 'loopback' | 'other';

/** What is run in the guest; both answers are told apart by their form. */
export const LISTENERS_COMMAND =
  'if command -v ss > /dev/null; then ss -Hltnp; else cat /proc/net/tcp; cat /proc/net/tcp6 2> /dev/null || :; fi';

/** More sockets, or processes on one, are nothing a person reads. */
const MAX_LISTENERS = 10_000;
const MAX_PROCESSES = 1000;

/** State `TCP_LISTEN` (include/net/tcp_states.h). */
const LISTEN = '0A';

/** The text is the guest's: whatever it is, reading it takes time in proportion to its length. */
export function parseListeners(text: string): Listener[] {
  const found: Listener[] = [];
  for (const line of text.split('\n')) {
    const listener = parseSsLine(line) ?? parseProcLine(line);
    if (listener) found.push(listener);
    if (found.length === MAX_LISTENERS) break;
  }
  return found;
}

/** `LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))` */
function parseSsLine(line: string): Listener | undefined {
  if (!line.startsWith('LISTEN')) return undefined;
  const [, queued = '', limit = '', local = '', peer] = line.split(/\s+/, 5);
  const colon = local.lastIndexOf(':');
  const port = local.slice(colon + 1);
  if (peer === undefined || colon < 1 || ![queued, limit, port].every((number) => /^\d{1,10}$/.test(number))) {
    return undefined;
  }
  // `%eth0` is the device a socket is bound to
  const [address = ''] = local
    .slice(0, colon)
    .replace(/^\[|\]/g, '')
    .split('%', 1);
  const users = line.indexOf('users:(');
  if (!isPort(Number(port)) || !/^[*0-9a-f.:]{1,45}$/.test(address)) return undefined;
  return { address, port: Number(port), processes: users < 0 ? [] : parseUsers(line.slice(users)) };
}

/** `users:(("nginx",pid=7,fd=6),("nginx",pid=8,fd=6))`; a name may hold quotes, so its pid ends it. */
function parseUsers(text: string): ListeningProcess[] {
  const found = new Map<number, ListeningProcess>();
  const tail = /",pid=(\d{1,10}),fd=\d{1,10}\)/g;
  let start = text.indexOf('("');
  while (start >= 0 && found.size < MAX_PROCESSES) {
    tail.lastIndex = start + 2;
    const end = tail.exec(text);
    if (!end) break;
    const pid = Number(end[1]);
    found.set(pid, { name: printable(text.slice(start + 2, end.index)), pid });
    start = text.indexOf('("', tail.lastIndex);
  }
  return [...found.values()];
}

/** `0: 00000000:0016 00000000:0000 0A …` of /proc/net/tcp and tcp6. */
function parseProcLine(line: string): Listener | undefined {
  const match = /^\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2})\s/.exec(line);
  if (match?.[1] === undefined || match[3] !== LISTEN) return undefined;
  const port = Number.parseInt(match[2] ?? '', 16);
  return isPort(port) ? { address: addressOfHex(match[1]), port, processes: [] } : undefined;
}

/** Words of 32 bits, each in the machine's (little-endian) order. */
function addressOfHex(hex: string): string {
  const bytes = [...hex.matchAll(/(..)(..)(..)(..)/g)].flatMap(([, a, b, c, d]) =>
    [d, c, b, a].map((byte) => Number.parseInt(byte ?? '0', 16)),
  );
  if (bytes.length === 4) return bytes.join('.');
  const words = hexWords(bytes);
  // its text is the shortest one, as people and `ss` write it
  return new SocketAddress({ address: words.join(':'), family: 'ipv6' }).address;
}

function hexWords(bytes: readonly number[]): string[] {
  return Array.from({ length: 8 }, (_, word) =>
    (((bytes[word * 2] ?? 0) << 8) | (bytes[word * 2 + 1] ?? 0)).toString(16),
  );
}

export function reachOf(address: string, ownAddress: string): Reach {
  const plain = address.replace(/^::ffff:/, '');
  if (plain === '*' || plain === '0.0.0.0' || plain === '::' || plain === ownAddress) return 'network';
  return plain === '::1' || (isIPv4(plain) && plain.startsWith('127.')) ? 'loopback' : 'other';
}

function isPort(port: number): boolean {
  return port > 0 && port < 65_536;
}

/** A guest's names are shown on the host's terminal. */
function printable(text: string): string {
  return text.slice(0, 64).replace(/[^\x20-\x7e]/g, '?');
}
