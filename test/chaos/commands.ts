/** What a chaos run does: daily work, accidents, and work that is cut off in the middle. Each says when it is possible. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import type { VmState } from '../../src/api/schemas.ts';
import { createRunner } from '../../src/system/runner.ts';
import { crash, type TestHost, until } from '../support/host.ts';
import { expect, type Model, NO_DATA, surelyRests, surelyRuns, vmOf } from './model.ts';
import { verify } from './observe.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

const NAMES = ['ant', 'bee', 'cat'];
/** More would only wait for each other on two cores. */
const MAX_RUNNING = 2;
const MIB = 2 ** 20;
const DATA = '/root/data';
const DATA_BYTES = 256 * 1024;

export interface Real {
  host: TestHost;
  /** hears of each command before it runs */
  tell(text: string): void;
}

interface Action {
  title: string;
  possible(model: Model): boolean;
  run(model: Model, real: Real): Promise<void>;
}

/** An action as fast-check wants it; after each one everything must agree. */
function command(action: Action): fc.AsyncCommand<Model, Real> {
  return {
    check: (model) => action.possible(model),
    async run(model, real) {
      real.tell(action.title);
      await action.run(model, real);
      await verify(real.host, model);
    },
    toString: () => action.title,
  };
}

/** Commands in their frequencies; an accident now and then, work most of the time. */
export function chaosCommands(): fc.Arbitrary<fc.AsyncCommand<Model, Real>>[] {
  const name = fc.constantFrom(...NAMES);
  const delayMs = fc.integer({ min: 0, max: 4000 });
  const named = (make: (name: string) => Action) => name.map((each) => command(make(each)));
  const alone = (action: Action) => fc.constant(command(action));
  return [
    named(create),
    named(create),
    named(start),
    named(start),
    named(stop),
    named(kill),
    named(remove),
    named(restore),
    named(write),
    named(write),
    fc.tuple(name, name).map(([from, to]) => command(rename(from, to))),
    named(resize),
    alone(daemonDies),
    fc
      .tuple(fc.constantFrom<Interruptible>('create', 'start', 'stop', 'remove', 'resize'), name, delayMs)
      .map((all) => command(daemonDiesDuring(...all))),
    named(vmmDies),
    named(machineDies),
    named(vmmHangs),
    named(guestReboots),
    fc.tuple(name, delayMs).map(([each, delay]) => command(writeIsCutOff(each, delay))),
    alone(rulesAreFlushed),
    alone(daemonsAtOnce),
    named(clientsAtOnce),
    named(storeIsFull),
  ];
}

const create = (name: string): Action => ({
  title: `create ${name}`,
  possible: (model) => !model.vms.has(name),
  async run(model, { host }) {
    await host.ok('create', name);
    model.vms.set(name, { states: new Set(['stopped']), sums: new Set([NO_DATA]), workDiskBytes: 256 * MIB });
  },
});

const start = (name: string): Action => ({
  title: `start ${name}`,
  possible: (model) => surelyRests(model, name) && NAMES.filter((each) => surelyRuns(model, each)).length < MAX_RUNNING,
  async run(model, { host }) {
    await host.ok('start', name);
    expect(model, name, 'running');
    await checkData(model, host, name);
  },
});

const stop = (name: string): Action => ({
  title: `stop ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    await host.ok('stop', name);
    expect(model, name, 'stopped');
  },
});

const kill = (name: string): Action => ({
  title: `kill ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    await host.ok('kill', name);
    expect(model, name, 'stopped');
  },
});

const remove = (name: string): Action => ({
  title: `rm --force ${name}`,
  possible: (model) => model.vms.has(name),
  async run(model, { host }) {
    await host.ok('rm', '--force', name);
    model.vms.delete(name);
  },
});

const restore = (name: string): Action => ({
  title: `rm --force ${name}, undelete ${name}`,
  possible: (model) => model.vms.has(name),
  async run(model, { host }) {
    await host.ok('rm', '--force', name);
    await host.ok('vm', 'undelete', name);
    expect(model, name, 'stopped', 'failed');
  },
});

const rename = (from: string, to: string): Action => ({
  title: `rename ${from} ${to}`,
  possible: (model) => model.vms.has(from) && !model.vms.has(to),
  async run(model, { host }) {
    await host.ok('vm', 'rename', from, to);
    model.vms.set(to, vmOf(model, from));
    model.vms.delete(from);
  },
});

const resize = (name: string): Action => ({
  title: `disk resize ${name}`,
  possible: (model) => surelyRests(model, name) && vmOf(model, name).workDiskBytes < 512 * MIB,
  async run(model, { host }) {
    const vm = vmOf(model, name);
    const workDiskBytes = vm.workDiskBytes + 32 * MIB;
    await host.ok('disk', 'resize', name, '--work', `${workDiskBytes / MIB}MiB`);
    model.vms.set(name, { ...vm, workDiskBytes });
  },
});

const write = (name: string): Action => ({
  title: `write in ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const { script, sum } = planWrite();
    await host.guest(name, script);
    model.vms.set(name, { ...vmOf(model, name), sums: new Set([sum]) });
  },
});

const daemonDies: Action = {
  title: 'kill -9 of the daemon',
  possible: () => true,
  async run(_model, { host }) {
    await host.killDaemon();
    await host.daemon();
  },
};

type Interruptible = 'create' | 'start' | 'stop' | 'remove' | 'resize';

const daemonDiesDuring = (what: Interruptible, name: string, delayMs: number): Action => {
  const actions = { create, start, stop, remove, resize };
  const action = actions[what](name);
  return {
    title: `kill -9 of the daemon ${delayMs} ms into: ${action.title}`,
    possible: action.possible,
    async run(model, { host }) {
      const before = model.vms.get(name);
      const pid = (await host.client.call('status', {})).pid;
      const bytes = (before?.workDiskBytes ?? 0) + 32 * MIB;
      const args = {
        create: ['create', name],
        start: ['start', name],
        stop: ['stop', name],
        remove: ['rm', '--force', name],
        resize: ['disk', 'resize', name, '--work', `${bytes / MIB}MiB`],
      }[what];
      const client = host.begin(args);
      await sleep(delayMs);
      crash(pid);
      const { status } = await client.ended;
      await host.daemon();
      const seen = (await host.vms()).find((vm) => vm.name === name);
      // what was confirmed must have happened; what was not may have happened or not, but not by half
      if (what === 'create' && seen) {
        model.vms.set(name, { states: new Set(['stopped']), sums: new Set([NO_DATA]), workDiskBytes: 256 * MIB });
      }
      if (what === 'create' && status === 0) assert.ok(seen, `${name} was created and is gone`);
      if (what === 'remove' && !seen) model.vms.delete(name);
      if (what === 'remove' && status === 0) assert.equal(seen, undefined, `${name} was deleted and is there`);
      const states: Record<Interruptible, VmState[]> = {
        create: ['stopped'],
        start: status === 0 ? ['running'] : ['stopped', 'failed', 'running'],
        stop: status === 0 ? ['stopped'] : ['stopped', 'running'],
        remove: ['stopped', 'failed', 'running'],
        resize: [...(before?.states ?? [])],
      };
      if (model.vms.has(name)) expect(model, name, ...states[what]);
      if (what === 'resize' && seen) {
        assert.ok(
          [before?.workDiskBytes, bytes].includes(seen.workDiskBytes),
          `${name} has ${seen.workDiskBytes} bytes`,
        );
        if (status === 0) assert.equal(seen.workDiskBytes, bytes);
        model.vms.set(name, { ...vmOf(model, name), workDiskBytes: seen.workDiskBytes });
      }
    },
  };
};

const vmmDies = (name: string): Action => ({
  title: `kill -9 of the VMM of ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    crash((await host.vm(name)).pid);
    expect(model, name, 'failed');
    await until(`${name} has failed`, async () => (await host.vm(name)).state === 'failed', 20_000);
    assert.match((await host.vm(name)).failure ?? '', /SIGKILL|ended/);
  },
});

const machineDies = (name: string): Action => ({
  title: `kill -9 of the QEMU of ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const { directory } = await host.vm(name);
    const qemu = (await host.processes()).find(
      ({ command }) => /^\S*qemu-system/.test(command) && command.includes(directory),
    );
    crash(qemu?.pid);
    expect(model, name, 'failed');
    await until(`${name} has failed`, async () => (await host.vm(name)).state === 'failed', 20_000);
  },
});

const vmmHangs = (name: string): Action => ({
  title: `SIGSTOP of the VMM of ${name}, kill ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const { pid } = await host.vm(name);
    process.kill(pid ?? assert.fail('it has no process'), 'SIGSTOP');
    await host.ok('ls');
    await host.ok('kill', name);
    expect(model, name, 'stopped');
  },
});

const guestReboots = (name: string): Action => ({
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

const writeIsCutOff = (name: string, delayMs: number): Action => ({
  title: `kill -9 of the VMM of ${name} ${delayMs} ms into a write`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const { pid } = await host.vm(name);
    const { script, sum } = planWrite();
    const writer = host.begin(['exec', '-n', name, '--', 'sh', '-c', script]);
    await sleep(delayMs);
    crash(pid);
    const { status } = await writer.ended;
    const { sums } = vmOf(model, name);
    model.vms.set(name, { ...vmOf(model, name), sums: status === 0 ? new Set([sum]) : new Set([...sums, sum]) });
    expect(model, name, 'failed');
    await until(`${name} has failed`, async () => (await host.vm(name)).state === 'failed', 20_000);
  },
});

const storeIsFull = (name: string): Action => ({
  title: `no space left, start ${name}`,
  possible: (model) => surelyRests(model, name),
  async run(model, { host }) {
    const filler = join(host.home, 'state/store/filler');
    const { bavail, bsize } = await statfs(join(host.home, 'state/store'));
    await runner.run(['fallocate', '-l', String(bavail * bsize - 8 * MIB), filler]);
    try {
      const { status, stderr } = await host.run(['start', name]);
      assert.notEqual(status, 0, 'it started without space');
      assert.match(stderr, /space|full|free/i);
      assert.doesNotMatch(stderr, /\n\s+at |TypeError/);
    } finally {
      await rm(filler);
    }
    expect(model, name, ...vmOf(model, name).states);
  },
});

const rulesAreFlushed: Action = {
  title: 'nft delete table',
  possible: (model) => NAMES.some((name) => surelyRuns(model, name)),
  async run(_model, { host }) {
    await runner.run(['nft', 'delete', 'table', 'inet', host.table], { okExits: [0, 1] });
  },
};

const daemonsAtOnce: Action = {
  title: 'kill -9 of the daemon, three daemons started at once',
  possible: () => true,
  async run(_model, { host }) {
    await host.killDaemon();
    const starts = await Promise.all([1, 2, 3].map(() => host.run(['daemon', 'start'])));
    for (const { status, stderr } of starts) assert.equal(status, 0, stderr);
  },
};

const clientsAtOnce = (name: string): Action => ({
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

/** Reads back what was synced; the file of a write that was cut off is the old one or the new one, never a mixture. */
export async function checkData(model: Model, host: TestHost, name: string): Promise<void> {
  const seen = await host.guest(
    name,
    `if [ -e ${DATA} ]; then sha256sum < ${DATA} | head -c 64; else echo ${NO_DATA}; fi`,
  );
  const { sums } = vmOf(model, name);
  assert.ok(sums.has(seen), `the data of ${name} has the sum ${seen}, not ${[...sums].join(' or ')}`);
  model.vms.set(name, { ...vmOf(model, name), sums: new Set([seen]) });
}

/** Starts every VM once more and reads its data: nothing that was synced may be lost. */
export async function checkAllData(model: Model, { host, tell }: Real): Promise<void> {
  for (const name of model.vms.keys()) {
    tell(`read back ${name}`);
    if (!surelyRuns(model, name)) await host.ok('start', name);
    expect(model, name, 'running');
    await checkData(model, host, name);
    await host.ok('kill', name);
    expect(model, name, 'stopped');
  }
  await verify(host, model);
}

interface PlannedWrite {
  script: string;
  /** SHA-256 the data file has afterwards */
  sum: string;
}

/** Writes new bytes beside the old file, syncs, and puts them in its place. */
function planWrite(): PlannedWrite {
  const line = randomBytes(12).toString('hex');
  const bytes = `${line}\n`.repeat(Math.ceil(DATA_BYTES / (line.length + 1))).slice(0, DATA_BYTES);
  return {
    sum: createHash('sha256').update(bytes).digest('hex'),
    script: `yes ${line} | head -c ${DATA_BYTES} > ${DATA}.new && sync && mv ${DATA}.new ${DATA} && sync`,
  };
}
