/** Which process holds a port, from the kernel's tables of sockets. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { isIPv4 } from 'node:net';
import { basename } from 'node:path';

/** Tables of one process' network namespace; the last two also hold sockets that take IPv4 packets. */
const TABLES = ['udp', 'tcp', 'udp6', 'tcp6'];
/** `st` of a TCP socket that listens, and of a UDP socket that is bound and not connected. */
const LISTENING = new Set(['0A', '07']);

/**
 * The process that holds a UDP or TCP port of an IPv4 address, e.g. `dnsmasq (pid 812)`; undefined when nobody
 * does, or when it is another user's and so not ours to see.
 */
export async function findPortHolder(address: string, port: number): Promise<string | undefined> {
  const tables = await Promise.all(TABLES.map((table) => readFile(`/proc/net/${table}`, 'utf8').catch(() => '')));
  const inodes = new Set(tables.flatMap((table) => socketsOn(table, address, port)));
  if (inodes.size === 0) return undefined;
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    if (!(await holdsSocket(pid, inodes))) continue;
    // not `comm`: that is the name of a thread, and cut at 15 characters
    const [program = ''] = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    return `${basename(program.trim()) || 'a process'} (pid ${pid})`;
  }
  return undefined;
}

/** Inodes of the sockets that take packets to this address and port. */
function socketsOn(table: string, address: string, port: number): string[] {
  const wanted = isIPv4(address) ? kernelHex(address) : undefined;
  return table.split('\n').flatMap((line) => {
    const [, local = '', , state = '', , , , , , inode = ''] = line.trim().split(/\s+/);
    const [host = '', portHex = ''] = local.split(':');
    if (Number.parseInt(portHex, 16) !== port || !LISTENING.has(state)) return [];
    return /^0+$/.test(host) || wanted === undefined || wanted === '00000000' || host === wanted ? [inode] : [];
  });
}

/** An IPv4 address as /proc/net writes it: the number in the byte order of the machine, which is little-endian. */
function kernelHex(address: string): string {
  const octets = address.split('.').reverse();
  return octets.map((octet) => Number(octet).toString(16).padStart(2, '0').toUpperCase()).join('');
}

async function holdsSocket(pid: string, inodes: ReadonlySet<string>): Promise<boolean> {
  const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => []);
  for (const descriptor of descriptors) {
    const target = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => '');
    const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
    if (inode !== undefined && inodes.has(inode)) return true;
  }
  return false;
}
