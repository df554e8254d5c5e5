/** Daily work. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestHost, until } from '../support/host.ts';
import { type Action, hasRoom, MIB } from './action.ts';
import { checkData, MARK, planWrite } from './data.ts';
import {
  ABSENT,
  expect,
  type Model,
  NEW_VM,
  surelyRests,
  surelyRuns,
  surelySleeps,
  vmOf,
  withoutSnapshots,
} from './model.ts';

export const create = (name: string): Action => ({
  title: `create ${name}`,
  possible: (model) => !model.vms.has(name),
  async run(model, { host }) {
    await host.ok('create', name);
    model.vms.set(name, NEW_VM);
  },
});

export const start = (name: string): Action => ({
  title: `start ${name}`,
  possible: (model) => surelyRests(model, name) && hasRoom(model),
  async run(model, { host }) {
    await host.ok('start', name);
    expect(model, name, 'running');
    await checkData(model, host, name);
  },
});

export const stop = (name: string): Action => ({
  title: `stop ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    await host.ok('stop', name);
    expect(model, name, 'stopped');
  },
});

export const kill = (name: string): Action => ({
  title: `kill ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    await host.ok('kill', name);
    expect(model, name, 'stopped');
  },
});

export const remove = (name: string): Action => ({
  title: `rm --force ${name}`,
  possible: (model) => model.vms.has(name),
  async run(model, { host }) {
    await host.ok('rm', '--force', name);
    model.vms.delete(name);
  },
});

export const restore = (name: string): Action => ({
  title: `rm --force ${name}, undelete ${name}`,
  possible: (model) => model.vms.has(name),
  async run(model, { host }) {
    await host.ok('rm', '--force', name);
    await host.ok('vm', 'undelete', name);
    // one that is suspended comes back as it went
    expect(
      model,
      name,
      ...(surelySleeps(model, name) ? ['suspended' as const] : ['stopped' as const, 'failed' as const]),
    );
  },
});

/** Does what needs room for a guest's memory; the store is a small one, and what is refused changes nothing. */
export async function lacksRoom(host: TestHost, args: string[]): Promise<boolean> {
  const { status, stderr } = await host.run(args);
  if (status === 6 && /no room/i.test(stderr)) return true;
  assert.equal(status, 0, `banger ${args.join(' ')} ended with ${status}: ${stderr}`);
  return false;
}

/** What is written next is in memory when it is suspended, and on the disk when it goes on. */
export const suspend = (name: string): Action => ({
  title: `suspend ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    if (await lacksRoom(host, ['suspend', name])) return;
    expect(model, name, 'suspended');
    await host.fails(5, ['disk', 'resize', name, '--work', '1G'], [/is suspended/]);
  },
});

export const resume = (name: string): Action => ({
  title: `resume ${name}`,
  possible: (model) => surelySleeps(model, name) && hasRoom(model),
  async run(model, { host }) {
    await host.ok('resume', name);
    expect(model, name, 'running');
    await checkData(model, host, name);
  },
});

export const discardMemory = (name: string): Action => ({
  title: `stop --discard-memory ${name}`,
  possible: (model) => surelySleeps(model, name),
  async run(model, { host }) {
    await host.ok('stop', '--discard-memory', name);
    expect(model, name, 'stopped');
  },
});

export const fork = (from: string, to: string): Action => ({
  title: `fork ${from} ${to}`,
  possible: (model) => (surelyRuns(model, from) || surelySleeps(model, from)) && !model.vms.has(to) && hasRoom(model),
  async run(model, { host }) {
    if (await lacksRoom(host, ['fork', from, to])) return;
    model.vms.set(to, withoutSnapshots(vmOf(model, from)));
    expect(model, to, 'running');
    await checkData(model, host, to);
  },
});

export const rename = (from: string, to: string): Action => ({
  title: `rename ${from} ${to}`,
  possible: (model) => model.vms.has(from) && !model.vms.has(to),
  async run(model, { host }) {
    await host.ok('vm', 'rename', from, to);
    model.vms.set(to, vmOf(model, from));
    model.vms.delete(from);
  },
});

export const resize = (name: string): Action => ({
  title: `disk resize ${name}`,
  possible: (model) => surelyRests(model, name) && vmOf(model, name).workDiskBytes < 512 * MIB,
  async run(model, { host }) {
    const vm = vmOf(model, name);
    const workDiskBytes = vm.workDiskBytes + 32 * MIB;
    await host.ok('disk', 'resize', name, '--work', `${workDiskBytes / MIB}MiB`);
    model.vms.set(name, { ...vm, workDiskBytes });
  },
});

export const write = (name: string): Action => ({
  title: `write in ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const { script, sum } = planWrite();
    await host.guest(name, script);
    model.vms.set(name, { ...vmOf(model, name), sums: new Set([sum]) });
  },
});

export const guestReboots = (name: string): Action => ({
  title: `reboot in ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const before = (await host.vm(name)).pid;
    await host.soon(name, 'kill -INT 1');
    await until(`${name} has rebooted`, async () => {
      const { state, pid } = await host.vm(name);
      return state === 'running' && pid !== before;
    });
    await checkData(model, host, name);
  },
});

export const clientsAtOnce = (name: string): Action => ({
  title: `six clients create and delete ${name} at once`,
  possible: (model) => !model.vms.has(name),
  async run(_model, { host }) {
    const clients = Array.from({ length: 6 }, (_, index) =>
      host.run(index % 2 === 0 ? ['create', name] : ['rm', '--force', name]),
    );
    for (const { status, stderr } of await Promise.all(clients)) {
      // done, not found, or told that somebody else is at it; never a bug
      assert.ok([0, 4, 5].includes(status ?? -1), `ended with ${status}: ${stderr}`);
    }
    await host.run(['rm', '--force', name]);
  },
});

export const exec = (name: string, status: number): Action => ({
  title: `exec in ${name}, which ends with ${status}`,
  possible: (model) => surelyRuns(model, name),
  async run(_model, { host }) {
    const input = randomBytes(100_000);
    const script = `cat; echo done >&2; exit ${status}`;
    const ran = await host.run(['exec', name, '--', 'sh', '-c', script], { input });
    assert.equal(ran.status, status, ran.stderr);
    assert.ok(ran.output.equals(input), `${ran.output.length} bytes came back of ${input.length}`);
    assert.equal(ran.stderr, 'done\n');
  },
});

/** The images of a chaos run; a build under a name that is taken replaces that one. */
export const IMAGES = ['one', 'two'];

/** What a build is asked for: its only step leaves a mark. */
export function buildArgs(host: { env: NodeJS.ProcessEnv }, image: string, mark: string): string[] {
  const run = `mkdir -p /opt && echo ${mark} > ${MARK}`;
  return [
    'image',
    'build',
    '--from',
    host.env.BANGER_BUNDLE_DEFAULT ?? '',
    '--name',
    image,
    '--run',
    run,
    '--set',
    'modules=false',
  ];
}

export const newMark = () => randomBytes(6).toString('hex');

export const build = (image: string): Action => ({
  title: `image build ${image}`,
  possible: hasRoom,
  async run(model, { host }) {
    const mark = newMark();
    await host.ok(...buildArgs(host, image, mark));
    model.images.set(image, new Set([mark]));
  },
});

export const removeImage = (image: string): Action => ({
  title: `image rm ${image}`,
  possible: (model) => surelyThere(model, image),
  async run(model, { host }) {
    const { status, stderr } = await host.run(['image', 'rm', image]);
    if (status === 0) model.images.delete(image);
    else assert.match(stderr, /needed by/); // a VM has it, or one in the trash
  },
});

/** Whether there is an image of this name, whatever its mark. */
export function surelyThere(model: Model, image: string): boolean {
  const marks = model.images.get(image);
  return marks !== undefined && !marks.has(ABSENT);
}

export const rebase = (name: string, image: string): Action => ({
  title: `rebase ${name} to ${image}`,
  possible: (model) =>
    surelyThere(model, image) && (surelyRuns(model, name) || (surelyRests(model, name) && hasRoom(model))),
  async run(model, { host }) {
    await host.ok('vm', 'rebase', name, '--image', image, '--force');
    expect(model, name, 'running');
    model.vms.set(name, { ...vmOf(model, name), marks: model.images.get(image) ?? new Set() });
    await checkData(model, host, name);
  },
});
