/** The host's resolvers, as its resolv.conf names them now. */
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';

/** A resolver to send queries to. */
export interface Upstream {
  address: string;
  port: number;
}

export const RESOLV_CONF = '/etc/resolv.conf';
const DNS_PORT = 53;
/** glibc reads no more than this many servers */
const MAX_SERVERS = 3;
/** How long a reading is trusted, in `ms`; glibc looks at the file at every lookup. */
const TRUST_MS = 1000;
/** What glibc asks when the file names nobody. */
const FALLBACK = '127.0.0.1';

/** The servers a resolv.conf text names, as many as glibc reads. */
export function parseNameservers(text: string): string[] {
  const lines = text.split('\n').map((line) => line.trim().split(/\s+/));
  const servers = lines.flatMap(([keyword, server = '']) => (keyword === 'nameserver' ? [server] : []));
  return servers.filter((server) => isIP(server) !== 0).slice(0, MAX_SERVERS);
}

/**
 * A function that gives the servers of a resolv.conf, loopback ones included, and follows its changes. A file
 * that can not be read leaves what was known before.
 */
export function followResolvConf(file = RESOLV_CONF): () => Promise<readonly Upstream[]> {
  let known: readonly Upstream[] = [{ address: FALLBACK, port: DNS_PORT }];
  let readAt = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  async function read(): Promise<void> {
    const text = await readFile(file, 'utf8').catch(() => undefined);
    readAt = performance.now();
    reading = undefined;
    if (text === undefined) return;
    const nameservers = parseNameservers(text);
    known = (nameservers.length > 0 ? nameservers : [FALLBACK]).map((address) => ({ address, port: DNS_PORT }));
  }

  return async () => {
    if (performance.now() - readAt >= TRUST_MS) {
      reading ??= read();
      await reading;
    }
    return known;
  };
}
