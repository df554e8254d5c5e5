/** What one banger has on this host, in words, and its removal by force: tests of it must end with nothing. */
import { existsSync } from 'node:fs';
import { readdir, readFile, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Client } from '../../src/client/client.ts';
import { createRunner } from '../../src/system/runner.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

/** The banger that is looked for. */
export interface Looked {
  readonly home: string;
  /** of its daemon */
  readonly socket: string;
  /** its nftables table */
  readonly table: string;
  readonly client: Client;
}

/** What its things are known by. */
export interface Marks {
  /** device whose forwarding it lends */
  uplink: string | undefined;
  /** what that must be in the end; undefined when it cannot be known */
  forwarding: string | undefined;
  /** ids of VMs it has or had */
  vmIds: Set<string>;
  /** network of its VMs, once it is known */
  pool: string | undefined;
}

/** @param daemonRuns its daemon is there, as it should be */
export async function leftoversOf(of: Looked, marks: Marks, daemonRuns: boolean): Promise<string[]> {
  for (const id of await listDirectory(join(of.home, 'state/store/vms'))) marks.vmIds.add(id);
  const parts = await Promise.all([
    taps(marks),
    rules(of),
    routes(marks),
    processes(of, daemonRuns),
    sockets(of, daemonRuns),
    mounts(of),
    ledger(of),
    files(of, marks),
    setting(marks),
  ]);
  return parts.flat();
}

/** Removes devices, rules, the route and every file. */
export async function removeByForce(of: Looked, marks: Marks): Promise<void> {
  for (const tap of await taps(marks)) {
    await runner.run(['ip', 'link', 'delete', 'dev', tap.slice('tap '.length)], { okExits: [0, 1] });
  }
  await runner.run(['nft', 'delete', 'table', 'inet', of.table], { okExits: [0, 1] });
  if (marks.pool) await runner.run(['ip', 'route', 'delete', 'unreachable', marks.pool], { okExits: [0, 2] });
  await rm(of.home, { recursive: true, force: true });
}

/** Processes that work for a banger: by their environment, a path of its home in their arguments, or where they work. */
export async function processesOf(home: string): Promise<{ pid: number; command: string }[]> {
  const found: { pid: number; command: string }[] = [];
  for (const entry of await readdir('/proc')) {
    const pid = Number(entry);
    if (!Number.isSafeInteger(pid) || pid === process.pid) continue;
    const read = (file: string) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '');
    const place = readlink(`/proc/${pid}/cwd`).catch(() => '');
    const [commandLine, environment, directory] = await Promise.all([read('cmdline'), read('environ'), place]);
    if (!`${commandLine}\0${directory}\0${environment}`.split('\0').some((part) => mentions(part, home))) continue;
    found.push({ pid, command: commandLine.split('\0').join(' ').trim() });
  }
  return found;
}

export async function endProcesses(home: string): Promise<void> {
  for (const { pid } of await processesOf(home)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ended by itself
    }
  }
}

/** Whether other bangers run VMs on this host. */
export async function othersRun(): Promise<boolean> {
  const { stdout } = await runner.run(['ip', '-4', 'route', 'show', 'proto', '119']);
  return stdout.trim() !== '';
}

/** What the kernel is set to do for a device; `absent` where there is none. */
export async function forwardingOf(device: string | undefined): Promise<string> {
  if (device === undefined) return 'absent';
  return (await readFile(`/proc/sys/net/ipv4/conf/${device}/forwarding`, 'utf8')).trim();
}

async function taps({ vmIds, pool }: Marks): Promise<string[]> {
  const { stdout } = await runner.run(['ip', '-j', 'address', 'show']);
  const links = JSON.parse(stdout) as { ifname?: string; addr_info?: { local?: string }[] }[];
  const gateway = pool?.replace(/\.0\/\d+$/, '.1');
  return links
    .filter(({ ifname = '', addr_info = [] }) => {
      if (!ifname.startsWith('bgr-')) return false;
      return vmIds.has(ifname.slice(4)) || addr_info.some(({ local }) => local === gateway);
    })
    .map(({ ifname }) => `tap ${ifname}`);
}

async function rules({ table }: Looked): Promise<string[]> {
  const { stdout } = await runner.run(['nft', 'list', 'tables']);
  return stdout.split('\n').filter((line) => line.endsWith(` ${table}`));
}

async function routes({ pool }: Marks): Promise<string[]> {
  const { stdout } = await runner.run(['ip', '-4', 'route', 'show']);
  const prefix = pool?.replace(/\.0\.0\/\d+$/, '.');
  return stdout.split('\n').filter((line) => prefix !== undefined && line.includes(prefix));
}

async function processes({ home }: Looked, daemonRuns: boolean): Promise<string[]> {
  return (await processesOf(home))
    .filter(({ command }) => !(daemonRuns && command.endsWith('daemon run')))
    .map(({ pid, command }) => `process ${pid}: ${command}`);
}

async function sockets({ home, socket }: Looked, daemonRuns: boolean): Promise<string[]> {
  const vmm = await listDirectory(join(home, 'run/vmm'));
  const own = daemonRuns || !existsSync(socket) ? [] : ['bangerd.sock'];
  return [...vmm, ...own].map((name) => `socket ${name}`);
}

async function mounts({ home }: Looked): Promise<string[]> {
  const lines = (await readFile('/proc/self/mounts', 'utf8')).split('\n');
  return lines.filter((line) => line.includes(`${home}/`)).map((line) => `mount ${line}`);
}

/** The daemon's own list must agree: an entry of something that is gone is as wrong as the reverse. */
async function ledger({ home }: Looked): Promise<string[]> {
  const file = join(home, 'state/banger.db');
  if (!existsSync(file)) return [];
  const database = new DatabaseSync(file, { readOnly: true });
  try {
    // a setting that another banger needed when the last VM went is kept until the next sweep; `setting` looks at what it is
    const rows = database.prepare("SELECT kind, name FROM ledger WHERE kind NOT IN ('directory', 'sysctl')").all();
    return rows.map(({ kind, name }) => `ledger entry ${kind} ${name}`);
  } finally {
    database.close();
  }
}

/** Files of VMs that are not there, and half-written files of those that are. */
async function files({ home, socket, client }: Looked, { vmIds }: Marks): Promise<string[]> {
  const store = join(home, 'state/store/vms');
  const left: string[] = [];
  for (const id of await listDirectory(store)) {
    for (const name of await listDirectory(join(store, id))) {
      if (/\.(part|tmp)$/.test(name)) left.push(`file ${id}/${name}`);
    }
  }
  if (!existsSync(socket)) return left;
  const there = [...(await client.call('listVms', {})), ...(await client.call('listTrash', {}))];
  const known = new Set(there.map(({ id }) => id));
  for (const id of known) vmIds.add(id);
  return [
    ...left,
    ...(await listDirectory(store)).filter((id) => !known.has(id)).map((id) => `directory of no VM ${id}`),
  ];
}

async function setting(marks: Marks): Promise<string[]> {
  if (await isShared(marks)) return [];
  const now = await forwardingOf(marks.uplink);
  return now === marks.forwarding ? [] : [`forwarding of ${marks.uplink} is ${now}, was ${marks.forwarding}`];
}

/** Whether other bangers of this host use the uplink too, so that its setting is not ours to judge. */
async function isShared({ forwarding }: Marks): Promise<boolean> {
  return forwarding === undefined || (await othersRun());
}

function mentions(text: string, home: string): boolean {
  return text === `BANGER_HOME=${home}` || text.includes(`${home}/`);
}

async function listDirectory(path: string): Promise<string[]> {
  return existsSync(path) ? await readdir(path) : [];
}
