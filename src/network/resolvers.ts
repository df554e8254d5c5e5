/** DNS servers a guest can use: the host's own, unless they are reachable from the host only. */
import { readFile } from 'node:fs/promises';

/** systemd-resolved and others put a loopback stub in /etc/resolv.conf; the real servers are listed here. */
const RESOLV_CONF_FILES = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf', '/run/NetworkManager/resolv.conf'];

/** IPv4 servers from the first file that names one that is not on loopback; empty when there is none. */
export async function hostNameservers(files: readonly string[] = RESOLV_CONF_FILES): Promise<string[]> {
  for (const file of files) {
    const servers = parseNameservers(await readFile(file, 'utf8').catch(() => ''));
    const reachable = servers.filter((server) => !server.startsWith('127.') && !server.includes(':'));
    if (reachable.length > 0) return reachable;
  }
  return [];
}

/** Servers of a resolv.conf text in their order. */
function parseNameservers(text: string): string[] {
  return [...text.matchAll(/^[ \t]{0,8}nameserver[ \t]+(\S+)/gm)].map((match) => match[1] ?? '');
}
