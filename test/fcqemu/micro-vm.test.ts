/** What becomes of a machine's state and log when its QEMU is slow, or talks a lot; QEMU is a script here. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { MicroVm } from '../../fcqemu/vmm/micro-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

/** Answers all commands but `stop` and `cont` at once, those when it is told to on its console, which repeats each command's name. */
const SCRIPT = `#!${process.execPath}
const { Socket } = require('node:net');
const [console_, qmp] = [3, 4].map((fd) => new Socket({ fd }));
const say = (message) => qmp.write(JSON.stringify(message) + '\\n');
let held;
console_.on('data', (bytes) => {
  if (String(bytes) === 'complain') process.stderr.write('virtio-serial-bus: Unexpected port id\\n'.repeat(1000));
  else {
    say({ return: {}, id: held.id });
    say({ event: held.execute === 'stop' ? 'STOP' : 'RESUME' });
  }
});
qmp.on('data', (bytes) => {
  for (const line of String(bytes).trim().split('\\n')) {
    const command = JSON.parse(line);
    if (['stop', 'cont'].includes(command.execute)) held = command;
    else say({ return: {}, id: command.id });
    console_.write(command.execute);
  }
});
say({ QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 } } } });
`;

async function machine(t: TestContext) {
  const qemu = join(await tempDir(t), 'qemu');
  writeFileSync(qemu, SCRIPT);
  chmodSync(qemu, 0o755);
  const lines: string[] = [];
  const write = (message: string) => void lines.push(message);
  const counted: string[] = [];
  const vm = await MicroVm.create({
    settings: { accelerator: 'tcg', qemu, cacheDir: '/nonexistent', env: process.env },
    args: [],
    files: { taps: [] },
    log: { error: write, warn: write, info: write, debug: write, verbose: false },
    metrics: { count: (group, counter) => void counted.push(`${group}.${counter}`) },
    onReset: () => {},
    onDeath: () => {},
  });
  t.after(() => vm.end());
  return { vm, lines, counted };
}

describe('a machine', () => {
  it('is said to be paused, and to go on, when QEMU says so, however late', async (t) => {
    const { vm } = await machine(t);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    for (const [act, paused] of [
      [() => vm.resume(), false],
      [() => vm.pause(), true],
    ] as const) {
      const begun = once(vm.console, 'data');
      const acted = act();
      await begun;
      t.mock.timers.tick(31_000);
      vm.console.write('answer');
      await acted;
      assert.equal(vm.paused, paused);
    }
  });

  it('is not paused when its QEMU ended before it said so', async (t) => {
    const { vm } = await machine(t);
    const begun = once(vm.console, 'data');
    const paused = vm.pause();
    await begun;
    await Promise.all([assert.rejects(paused, /QEMU is gone/), vm.end()]);
  });

  it('does not fill the log with what its guest makes QEMU say', async (t) => {
    const { vm, lines, counted } = await machine(t);
    vm.console.write('complain');
    while (lines.length + counted.length < 1000) await new Promise((resolve) => setImmediate(resolve));
    assert.equal(lines[0], 'QEMU: virtio-serial-bus: Unexpected port id');
    assert.ok(lines.length < 50, `${lines.length} lines`);
    assert.ok(counted.every((counter) => counter === 'logger.rate_limited_log_count'));
  });
});
