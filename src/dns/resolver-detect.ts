/** Which program answers this host's lookups, told from files and processes; nothing is asked or changed. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Runner } from '../system/runner.ts';
import { parseNameservers, RESOLV_CONF } from './resolv-conf.ts';

export type ResolverKind =
  | 'systemd-resolved'
  | 'networkmanager-dnsmasq'
  | 'dnsmasq'
  | 'unbound'
  /** lookups go straight to other machines; nothing here can be told where one zone lives */
  | 'resolv-conf'
  /** a resolver on this host that banger does not know */
  | 'unknown';

/** Where to look: the host itself, or a tree that stands for it in tests. */
export interface HostView {
  /** directory taken for `/` */
  root: string;
  runner: Pick<Runner, 'run'>;
}

export interface HostResolver {
  kind: ResolverKind;
  /** how it was recognised, as a sentence */
  reason: string;
  /** servers of resolv.conf, in their order */
  nameservers: readonly string[];
  /** version of systemd, where it resolves */
  systemdVersion?: number;
  /** directory a dnsmasq or unbound reads more files from, if it is told to read any */
  configDir?: string;
  init: 'systemd' | 'openrc' | 'other';
  networkManager: boolean;
  networkd: boolean;
}

interface Process {
  name: string;
  args: string[];
}

/** The stub addresses of systemd-resolved. */
const RESOLVED_STUBS = ['127.0.0.53', '127.0.0.54'];
/** dnsmasq processes that serve virtual networks and not the host. */
const FOREIGN_DNSMASQ = /libvirt|lxc|lxd|incus|multipass|podman|aardvark/;

export async function detectResolver(host: HostView): Promise<HostResolver> {
  const nameservers = parseNameservers((await readResolvConf(host.root)) ?? '');
  const processes = await listProcesses(host.root);
  const has = (name: string) => processes.some((process) => process.name === name);
  const common = {
    nameservers,
    init: await initOf(host.root),
    networkManager: has('NetworkManager'),
    networkd: has('systemd-network'),
  };
  const first = nameservers[0] ?? '127.0.0.1';

  const stub = RESOLVED_STUBS.includes(first);
  // the kernel cuts process names at 15 characters
  if (has('systemd-resolve') && (stub || (await nssAsksResolved(host.root)))) {
    const where = stub ? `resolv.conf names its address ${first}` : 'nsswitch.conf asks it before DNS';
    const version = await systemdVersion(host);
    const reason = `systemd-resolved runs, and ${where}.`;
    const known = version === undefined ? {} : { systemdVersion: version };
    return { kind: 'systemd-resolved', reason, ...common, ...known };
  }
  if (!isLoopback(first)) {
    const reason = `resolv.conf names ${nameservers.join(', ')}, so lookups leave this host directly.`;
    return { kind: 'resolv-conf', reason, ...common };
  }
  const ours = `resolv.conf names ${first}, and`;
  const dnsmasq = processes.filter(({ name, args }) => name === 'dnsmasq' && !FOREIGN_DNSMASQ.test(args.join(' ')));
  const ofNetworkManager = dnsmasq.some(({ args }) => args.some((arg) => arg.includes('/NetworkManager/')));
  if (ofNetworkManager) {
    return { kind: 'networkmanager-dnsmasq', reason: `${ours} NetworkManager runs dnsmasq.`, ...common };
  }
  if (dnsmasq[0] !== undefined) {
    const configDir = await dnsmasqConfigDir(host.root, dnsmasq[0].args);
    return { kind: 'dnsmasq', reason: `${ours} dnsmasq runs.`, ...common, ...(configDir ? { configDir } : {}) };
  }
  if (has('unbound')) {
    const configDir = await unboundConfigDir(host.root);
    return { kind: 'unbound', reason: `${ours} unbound runs.`, ...common, ...(configDir ? { configDir } : {}) };
  }
  return { kind: 'unknown', reason: `${ours} no resolver that banger knows runs here.`, ...common };
}

/** Directory dnsmasq reads more files from: by its arguments, else by its main file. */
async function dnsmasqConfigDir(root: string, args: readonly string[] = []): Promise<string | undefined> {
  for (const [index, arg] of args.entries()) {
    const value = arg === '-7' ? args[index + 1] : /^(?:--conf-dir=|-7)(.+)$/.exec(arg)?.[1];
    // what follows a comma says which files count; ".conf" always does
    if (value !== undefined) return value.split(',')[0]?.replace(/\/$/, '');
  }
  const main = await readIn(root, '/etc/dnsmasq.conf');
  return /^[ \t]{0,8}conf-dir[ \t]{0,8}=[ \t]{0,8}([^,\s]+?)\/?(?:[,\s]|$)/m.exec(main ?? '')?.[1];
}

/** Directory of the files unbound's main file includes. */
async function unboundConfigDir(root: string): Promise<string | undefined> {
  const main = await readIn(root, '/etc/unbound/unbound.conf');
  for (const match of (main ?? '').matchAll(/^[ \t]{0,8}include(?:-toplevel)?:\s*"?([^"\s]+)"?/gm)) {
    const pattern = match[1] ?? '';
    if (pattern.endsWith('/*.conf')) return dirname(resolve('/etc/unbound', pattern));
  }
  return undefined;
}

/** Text of a file below the root; undefined when it can not be read. */
export async function readIn(root: string, path: string): Promise<string | undefined> {
  return await readFile(join(root, path), 'utf8').catch(() => undefined);
}

/** resolv.conf is a link more often than not, and an absolute one must not lead out of the root. */
async function readResolvConf(root: string): Promise<string | undefined> {
  let path = RESOLV_CONF;
  for (let hops = 0; hops < 8; hops++) {
    const target = await readlink(join(root, path)).catch(() => undefined);
    if (target === undefined) return await readIn(root, path);
    path = resolve(dirname(path), target);
  }
  return undefined;
}

async function listProcesses(root: string): Promise<Process[]> {
  const pids = (await entriesOf(root, '/proc')).filter((entry) => /^\d+$/.test(entry));
  const processes = await Promise.all(
    pids.map(async (pid) => ({
      name: ((await readIn(root, `/proc/${pid}/comm`)) ?? '').trim(),
      args: ((await readIn(root, `/proc/${pid}/cmdline`)) ?? '').split('\0'),
    })),
  );
  // a zombie has a name and no arguments: it resolves nothing any more
  return processes.filter(({ name, args }) => name !== '' && args.some((arg) => arg !== ''));
}

async function initOf(root: string): Promise<HostResolver['init']> {
  if ((await entriesOf(root, '/run/systemd')).includes('system')) return 'systemd';
  return (await entriesOf(root, '/run')).includes('openrc') ? 'openrc' : 'other';
}

async function entriesOf(root: string, path: string): Promise<string[]> {
  try {
    return await readdir(join(root, path));
  } catch {
    return [];
  }
}

/** Whether getaddrinfo asks systemd-resolved before it reads resolv.conf. */
async function nssAsksResolved(root: string): Promise<boolean> {
  const hosts = /^[ \t]{0,8}hosts:(.*)$/m.exec((await readIn(root, '/etc/nsswitch.conf')) ?? '')?.[1] ?? '';
  const services = hosts.trim().split(/\s+/);
  const resolved = services.indexOf('resolve');
  const dns = services.indexOf('dns');
  return resolved >= 0 && (dns < 0 || resolved < dns);
}

async function systemdVersion({ runner }: HostView): Promise<number | undefined> {
  const { stdout } = await runner.run(['resolvectl', '--version']).catch(() => ({ stdout: '' }));
  const version = /^systemd (\d+)/.exec(stdout)?.[1];
  return version === undefined ? undefined : Number(version);
}

function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1';
}
