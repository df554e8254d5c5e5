/** Accidents, and work that is cut off in the middle. */
import assert from 'node:assert/strict';
import { rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { VmState } from '../../src/api/vm.ts';
import { crash, type TestHost, until } from '../support/host.ts';
import { type Action, hasRoom, MIB, NAMES, runner } from './action.ts';
import { checkData, planWrite } from './data.ts';
import { ABSENT, expect, NEW_VM, surelyRests, surelyRuns, vmOf } from './model.ts';
import { buildArgs, create, newMark, rebase, remove, resize, resume, start, stop, suspend } from './work.ts';

export const daemonDies: Action = {
  title: 'kill -9 of the daemon',
  possible: () => true,
  async run(_model, { host }) {
    await host.killDaemon();
    await host.daemon();
  },
};

type Interruptible = 'create' | 'start' | 'stop' | 'remove' | 'resize' | 'suspend' | 'resume';

export const daemonDiesDuring = (what: Interruptible, name: string, delayMs: number): Action => {
  const actions = { create, start, stop, remove, resize, suspend, resume };
  const action = actions[what](name);
  return {
    title: `kill -9 of the daemon ${delayMs} ms into: ${action.title}`,
    possible: action.possible,
    async run(model, { host }) {
      const before = model.vms.get(name);
      const bytes = (before?.workDiskBytes ?? 0) + 32 * MIB;
      const args = {
        create: ['create', name],
        start: ['start', name],
        stop: ['stop', name],
        remove: ['rm', '--force', name],
        resize: ['disk', 'resize', name, '--work', `${bytes / MIB}MiB`],
        suspend: ['suspend', name],
        resume: ['resume', name],
      }[what];
      const status = await cutOff(host, args, delayMs);
      const seen = (await host.vms()).find((vm) => vm.name === name);
      // what was confirmed must have happened; what was not may have happened or not, but not by half
      if (what === 'create' && seen) model.vms.set(name, NEW_VM);
      if (what === 'create' && status === 0) assert.ok(seen, `${name} was created and is gone`);
      if (what === 'remove' && !seen) model.vms.delete(name);
      if (what === 'remove' && status === 0) assert.equal(seen, undefined, `${name} was deleted and is there`);
      const states: Record<Interruptible, VmState[]> = {
        create: ['stopped'],
        start: status === 0 ? ['running'] : ['stopped', 'failed', 'running'],
        stop: status === 0 ? ['stopped'] : ['stopped', 'running'],
        remove: ['stopped', 'failed', 'running', 'suspended'],
        suspend: status === 0 ? ['suspended'] : ['suspended', 'running'],
        resume: status === 0 ? ['running'] : ['suspended', 'running'],
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

/** Begins a command, kills the daemon in the middle of it and starts another; what the command ended with. */
export async function cutOff(host: TestHost, args: string[], delayMs: number): Promise<number | null> {
  const { pid } = await host.client.call('status', {});
  const client = host.begin(args);
  await sleep(delayMs);
  crash(pid);
  const { status } = await client.ended;
  await host.daemon();
  return status;
}

export const daemonDiesDuringBuild = (image: string, delayMs: number): Action => ({
  title: `kill -9 of the daemon ${delayMs} ms into: image build ${image}`,
  possible: hasRoom,
  async run(model, { host }) {
    const mark = newMark();
    const status = await cutOff(host, buildArgs(host, image, mark), delayMs);
    const before = model.images.get(image) ?? [ABSENT];
    model.images.set(image, new Set(status === 0 ? [mark] : [...before, mark]));
  },
});

/** Whichever root disk it comes up with, the work disk is the same. */
export const daemonDiesDuringRebase = (name: string, image: string, delayMs: number): Action => {
  const action = rebase(name, image);
  return {
    title: `kill -9 of the daemon ${delayMs} ms into: ${action.title}`,
    possible: action.possible,
    async run(model, { host }) {
      const before = vmOf(model, name);
      const ran = surelyRuns(model, name);
      const status = await cutOff(host, ['vm', 'rebase', name, '--image', image, '--force'], delayMs);
      const marks = model.images.get(image) ?? [];
      model.vms.set(name, { ...before, marks: new Set(status === 0 ? marks : [...before.marks, ...marks]) });
      if (status === 0 || ran) {
        expect(model, name, 'running');
        await until(`${name} runs again`, async () => (await host.vm(name)).state === 'running', 60_000);
        await checkData(model, host, name);
      } else {
        expect(model, name, 'stopped', 'failed', 'running');
      }
    },
  };
};

export const vmmDies = (name: string): Action => ({
  title: `kill -9 of the VMM of ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    crash((await host.vm(name)).pid);
    expect(model, name, 'failed');
    await until(`${name} has failed`, async () => (await host.vm(name)).state === 'failed', 20_000);
    assert.match((await host.vm(name)).failure ?? '', /SIGKILL|ended/);
  },
});

export const machineDies = (name: string): Action => ({
  title: `kill -9 of the QEMU of ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const { id } = await host.vm(name);
    const qemu = (await host.processes()).find(
      ({ command }) => /^\S*qemu-system/.test(command) && command.includes(id),
    );
    crash(qemu?.pid);
    expect(model, name, 'failed');
    await until(`${name} has failed`, async () => (await host.vm(name)).state === 'failed', 20_000);
  },
});

export const vmmHangs = (name: string): Action => ({
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

export const writeIsCutOff = (name: string, delayMs: number): Action => ({
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

export const storeIsFull = (name: string): Action => ({
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

export const rulesAreFlushed: Action = {
  title: 'nft delete table',
  possible: (model) => NAMES.some((name) => surelyRuns(model, name)),
  async run(_model, { host }) {
    await runner.run(['nft', 'delete', 'table', 'inet', host.table], { okExits: [0, 1] });
  },
};

export const daemonsAtOnce: Action = {
  title: 'kill -9 of the daemon, three daemons started at once',
  possible: () => true,
  async run(_model, { host }) {
    await host.killDaemon();
    const starts = await Promise.all([1, 2, 3].map(() => host.run(['daemon', 'start'])));
    for (const { status, stderr } of starts) assert.equal(status, 0, stderr);
  },
};

export const tapIsRemoved = (name: string): Action => ({
  title: `ip link delete the device of ${name}, restart ${name}`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    await runner.run(['ip', 'link', 'delete', `bgr-${(await host.vm(name)).id}`]);
    const problem = async () => (await host.vms()).find((vm) => vm.name === name)?.problem ?? '';
    await until(`banger ls says that the device of ${name} is gone`, async () => /device/.test(await problem()));
    await host.ok('kill', name);
    await host.ok('start', name);
    await checkData(model, host, name);
  },
});
