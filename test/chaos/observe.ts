/** What the host, the database and `banger ls` say, each asked by itself; they must agree with the model. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { isDeepStrictEqual } from 'node:util';
import type { Image } from '../../src/api/image.ts';
import type { Vm } from '../../src/api/vm.ts';
import { createRunner } from '../../src/system/runner.ts';
import { type TestHost, until } from '../support/host.ts';
import { ABSENT, type Model } from './model.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

/** A VMM's end is noticed at once, packet rules that were flushed within 5 s; a busy machine takes longer. */
const AGREEMENT_LIMIT_MS = 20_000;

interface Seen {
  problems: string[];
  vms: Vm[];
  /** names of images */
  images: string[];
}

/** Waits until everything agrees; fails with the last disagreement. */
export async function verify(host: TestHost, model: Model): Promise<Vm[]> {
  let last: Seen = { problems: ['nothing was seen yet'], vms: [], images: [] };
  try {
    await until(
      'model, banger ls, database and host agree',
      async () => {
        last = await disagreements(host, model);
        return last.problems.length === 0;
      },
      AGREEMENT_LIMIT_MS,
    );
  } catch (error) {
    assert.fail(`${error instanceof Error ? error.message : error}\n${last.problems.join('\n')}`);
  }
  // from here on the model knows what was seen
  for (const [name, marks] of model.images) {
    if (!last.images.includes(name)) model.images.delete(name);
    else model.images.set(name, new Set([...marks].filter((mark) => mark !== ABSENT)));
  }
  for (const vm of last.vms) {
    const believed = model.vms.get(vm.name);
    if (believed) model.vms.set(vm.name, { ...believed, states: new Set([vm.state]) });
  }
  return last.vms;
}

async function disagreements(host: TestHost, model: Model): Promise<Seen> {
  const problems: string[] = [];
  const same = (what: string, seen: unknown, wanted: unknown) => {
    if (!isDeepStrictEqual(seen, wanted))
      problems.push(`${what}: ${JSON.stringify(seen)}, not ${JSON.stringify(wanted)}`);
  };
  const vms = JSON.parse(await host.ok('ls', '--json')) as Vm[];
  same('names in banger ls', vms.map(({ name }) => name).sort(), [...model.vms.keys()].sort());
  for (const { name, state, failure } of vms) {
    const states = model.vms.get(name)?.states;
    if (states && !states.has(state))
      problems.push(`${name} is ${state} (${failure}), not ${[...states].join(' or ')}`);
  }
  const running = vms.filter(({ state }) => state === 'running');
  const runningIds = running.map(({ id }) => id).sort();
  const rows = readDatabase(host);
  same('names in the database', rows.names, vms.map(({ name }) => name).sort());
  const links = JSON.parse((await runner.run(['ip', '-j', 'link', 'show'])).stdout) as { ifname?: string }[];
  const known = new Set([...vms.map(({ id }) => id), ...rows.everSeen]);
  const taps = links.flatMap(({ ifname = '' }) => (ifname.startsWith('bgr-') ? [ifname.slice(4)] : []));
  same('taps', taps.filter((id) => known.has(id)).sort(), runningIds);
  same('members of the packet rules', await ruleMembers(host), runningIds);
  const processes = await host.processes();
  const vmms = processes.filter(({ command }) => /\/fcqemu(\.ts)? |\/firecracker /.test(command));
  same('VMM processes', vmms.map(({ pid }) => pid).sort(), running.map(({ pid }) => pid).sort());
  const machines = processes.filter(({ command }) => /^\S*qemu-system/.test(command));
  same('QEMU processes', machines.length, vmms.length);
  same('daemons', processes.filter(({ command }) => command.endsWith('daemon run')).length, 1);
  const directories = await namesIn(join(host.home, 'state/store/vms'));
  // VMMs that run as users of their own have theirs in the directory of their VM
  const sockets = [
    ...(await namesIn(join(host.home, 'run/vmm'))).map((name) => name.replace(/\.sock$/, '')),
    ...directories.filter((id) => existsSync(join(host.home, 'state/store/vms', id, 'api.sock'))),
  ];
  same('sockets of VMMs', sockets.sort(), runningIds);
  same('directories of VMs', directories, [...rows.ids, ...rows.trashed].sort());
  for (const id of rows.ids) {
    const halfMade = (await namesIn(join(host.home, 'state/store/vms', id))).filter((name) =>
      /\.(part|tmp)$/.test(name),
    );
    same(`half-made files of ${id}`, halfMade, []);
  }
  same('ledger entries of no VM', rows.orphans, []);
  const images = JSON.parse(await host.ok('image', 'list', '--json')) as Image[];
  for (const { name, problem } of images) same(`problem of image ${name}`, problem, null);
  const built = images.map(({ name }) => name);
  for (const name of built) if (!model.images.has(name)) problems.push(`there is an image ${name}`);
  for (const [name, marks] of model.images) {
    if (!built.includes(name) && !marks.has(ABSENT)) problems.push(`the image ${name} is gone`);
  }
  same('images in the database', rows.images.map(({ name }) => name).sort(), built.sort());
  // an image that was replaced stays as long as a VM boots with its kernel
  const needed = new Set([...rows.images.map(({ id }) => id), ...rows.bootedWith]);
  const kept = await namesIn(join(host.home, 'state/store/images'));
  same(
    'directories of images',
    kept.filter((id) => !needed.has(id)),
    [],
  );
  same('layers', await namesIn(join(host.home, 'state/store/layers')), rows.layers);
  return { problems, vms, images: built };
}

interface Rows {
  ids: string[];
  names: string[];
  trashed: string[];
  orphans: string[];
  images: { id: string; name: string }[];
  /** ids of images that VMs have, those in the trash included */
  bootedWith: string[];
  /** names of the files that layers have */
  layers: string[];
  everSeen: string[];
}

const seenIds = new Map<string, Set<string>>();

function readDatabase(host: TestHost): Rows {
  const database = new DatabaseSync(join(host.home, 'state/banger.db'), { readOnly: true, timeout: 5000 });
  try {
    const column = (sql: string) =>
      database
        .prepare(sql)
        .all()
        .map((row) => String(Object.values(row)[0]));
    const ids = column('SELECT id FROM vms ORDER BY id');
    const trashed = column('SELECT id FROM trash ORDER BY id');
    const ever = seenIds.get(host.home) ?? new Set();
    for (const id of [...ids, ...trashed]) ever.add(id);
    seenIds.set(host.home, ever);
    return {
      ids,
      trashed,
      names: column('SELECT name FROM vms ORDER BY name'),
      orphans: column(
        `SELECT vm_id || ' ' || kind || ' ' || name FROM ledger
         WHERE vm_id <> 'host' AND vm_id NOT IN (SELECT id FROM vms) AND vm_id NOT IN (SELECT id FROM trash)`,
      ),
      images: database.prepare('SELECT id, name FROM images').all() as unknown as Rows['images'],
      bootedWith: column(
        `SELECT image_id FROM vms WHERE image_id IS NOT NULL
         UNION SELECT record ->> '$.imageId' FROM trash WHERE record ->> '$.imageId' IS NOT NULL`,
      ),
      layers: column(
        `SELECT key || '.' || kind FROM layers, (SELECT 'ext4' AS kind UNION SELECT 'memory' UNION SELECT 'vmstate')
         WHERE kind = 'ext4' OR machine IS NOT NULL ORDER BY 1`,
      ),
      everSeen: [...ever],
    };
  } finally {
    database.close();
  }
}

/** Ids of the VMs whose taps the packet rules know; none without a table. */
async function ruleMembers(host: TestHost): Promise<string[]> {
  const { stdout, exitCode } = await runner.run(['nft', '-j', 'list', 'table', 'inet', host.table], {
    okExits: [0, 1],
  });
  if (exitCode !== 0) return [];
  // of its sets alone: a rule names the device of VMs that sleep, which is no VM's
  const { nftables } = JSON.parse(stdout) as { nftables: { set?: { elem?: unknown } }[] };
  const elements = JSON.stringify(nftables.map(({ set }) => set?.elem));
  return [...new Set([...elements.matchAll(/"bgr-([0-9a-f]{8})"/g)].map((match) => match[1] ?? ''))].sort();
}

async function namesIn(directory: string): Promise<string[]> {
  return existsSync(directory) ? (await readdir(directory)).sort() : [];
}
