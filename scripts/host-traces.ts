/** What a running VM leaves on the host, looked for from outside of banger: there while it runs, gone afterwards. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { dirname, join, sep } from 'node:path';
import type { DaemonStatus } from '../src/api/system.ts';
import type { VmDetail } from '../src/api/vm.ts';
import { withAdministratorPath } from '../src/system/host-facts.ts';
import { createPrivileged } from '../src/system/privilege.ts';
import { createRunner } from '../src/system/runner.ts';
import type { DevHome } from './dev-home.ts';
import { BANGER } from './transcript.ts';

export interface Trace {
  what: string;
  /** whether a running VM has it; what is never there must not be there either */
  whileRunning: boolean;
  /** each one found, in a few words */
  find(): Promise<string[]>;
}

const uid = process.geteuid?.() ?? 0;
const runner = createRunner(withAdministratorPath(process.env, uid));
const privileged = createPrivileged(runner, { uid, sudo: 'auto', sudoProgram: 'sudo' });

/** Mount points below a directory, which may itself be one. */
export async function mountsBelow(directory: string): Promise<string[]> {
  const mounts = await readFile('/proc/self/mountinfo', 'utf8');
  return mounts
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => point.startsWith(directory + sep));
}

/** Everything to look for; `mountsBefore` are those the caller had already. */
export function tracesOf(
  dev: DevHome,
  vm: VmDetail,
  { pool }: Pick<DaemonStatus, 'pool'>,
  mountsBefore: readonly string[],
): Trace[] {
  return [
    {
      what: `network device ${vm.tap}`,
      whileRunning: true,
      find: async () => (await readdir('/sys/class/net')).filter((name) => name === vm.tap),
    },
    { what: 'nftables table with its rules', whileRunning: true, find: tableFinder(vm.tap) },
    { what: `routes to ${vm.address} and ${pool}`, whileRunning: true, find: () => routesTo([vm.address, pool]) },
    {
      what: 'processes (banger, fcqemu or firecracker, QEMU)',
      whileRunning: true,
      find: () => processesOf(dev, vm.directory),
    },
    {
      what: 'disks of the VM',
      whileRunning: true,
      find: async () => (await namesIn(dirname(vm.directory))).map((name) => join(dirname(vm.directory), name)),
    },
    { what: 'sockets', whileRunning: true, find: () => socketsIn(dev.run) },
    {
      what: 'mounts',
      whileRunning: false,
      find: async () => (await mountsBelow(dev.directory)).filter((point) => !mountsBefore.includes(point)),
    },
  ];
}

/** The table that names the tap; once seen, it is looked for by its own name. */
function tableFinder(tap: string): () => Promise<string[]> {
  const known = new Set<string>();
  return async () => {
    const { stdout } = await privileged.run(['nft', '-j', 'list', 'ruleset']);
    const { nftables } = JSON.parse(stdout) as NftListing;
    for (const { set } of nftables) if (set?.elem?.includes(tap)) known.add(set.table);
    return nftables.flatMap(({ table }) => (table && known.has(table.name) ? [`table ${table.name}`] : []));
  };
}

interface NftListing {
  nftables: { table?: { name: string }; set?: { table: string; elem?: unknown[] } }[];
}

async function routesTo(destinations: readonly string[]): Promise<string[]> {
  const { stdout } = await runner.run(['ip', '-j', '-4', 'route', 'show']);
  const routes = JSON.parse(stdout || '[]') as { dst: string; dev?: string; type?: string }[];
  return routes
    .filter(({ dst }) => destinations.includes(dst))
    .map(({ dst, dev, type }) => `${type ?? ''} ${dst} ${dev ?? ''}`.trim());
}

/** The daemon is known by its program and home, VMMs and QEMU by files of the VM in their arguments. */
async function processesOf(dev: DevHome, vmDirectory: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const read = (file: string) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => ''); // ended, or not ours
    const argv = (await read('cmdline')).split('\0');
    const program = await readlink(`/proc/${pid}/exe`).catch(() => '');
    const ofHome = async () => (await read('environ')).split('\0').includes(`BANGER_HOME=${dev.home}`);
    const isDaemon = program.replace(/ \(deleted\)$/, '') === BANGER && (await ofHome());
    if (!isDaemon && !argv.some((argument) => argument.includes(vmDirectory))) continue;
    found.push(`${(await read('comm')).trim()} (${pid})`);
  }
  return found;
}

async function socketsIn(run: string): Promise<string[]> {
  const entries = await readdir(run, { withFileTypes: true, recursive: true }).catch(() => []);
  return entries.filter((entry) => entry.isSocket()).map((entry) => join(entry.parentPath, entry.name));
}

async function namesIn(directory: string): Promise<string[]> {
  return await readdir(directory).catch(() => []);
}
