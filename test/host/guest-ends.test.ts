/** Guests that end as nobody wanted, and one that only says so: told apart, named, kept. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { hostSkip, TestHost, until } from '../support/host.ts';

const LIMIT = { timeout: 300_000 };

describe('a guest', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create({ lean: true, warm: true });
    await host.ok('run', 'web', '--memory', '256M', '--work-disk', 'none');
  });
  after(() => host?.[Symbol.asyncDispose]());

  it('goes on when a program in it prints the last words of a kernel', LIMIT, async () => {
    const { pid } = await host.vm('web');
    await host.guest('web', 'echo "[1.0] reboot: Power down" > /dev/console');
    await until('it is judged', async () => /says that it is off, and runs on/.test(await host.log()), 60_000);
    assert.equal(await host.guest('web', 'hostname'), 'web');
    const vm = await host.vm('web');
    assert.deepEqual([vm.state, vm.pid], ['running', pid]);
  });

  it('is not started again after a panic that nobody asked for, and says what its kernel said', LIMIT, async () => {
    await host.soon('web', 'echo c > /proc/sysrq-trigger');
    await until('it has failed', async () => (await host.vm('web')).state === 'failed', 60_000);
    const { failure, lastEnd } = await host.vm('web');
    assert.match(failure ?? '', /^The kernel of its guest panicked: sysrq triggered crash$/);
    assert.equal(lastEnd?.kind, 'panic');
    assert.ok(
      lastEnd.lines.some((line) => line.includes('Kernel panic - not syncing')),
      lastEnd.lines.join('\n'),
    );
    assert.match(await host.ok('events'), /web: The kernel of its guest panicked: sysrq triggered crash/);
    assert.match(await host.ok('show', 'web'), /LAST END NOBODY WANTED .*Z\n.*panicked/);
  });

  it('keeps that, with its console, after a person started it again', LIMIT, async () => {
    await host.ok('start', 'web');
    assert.match(await host.ok('logs', 'web', '--previous'), /Kernel panic - not syncing: sysrq triggered crash/);
    assert.doesNotMatch(await host.ok('logs', 'web'), /Kernel panic/);
    assert.match((await host.run(['ls'])).stderr, /web: It was started again after .* panicked/);
  });

  it('is started again by its policy', LIMIT, async () => {
    await host.ok('set', 'web', '--restart', 'on-failure');
    const { startedAt } = await host.vm('web');
    await host.soon('web', 'echo c > /proc/sysrq-trigger');
    await until('it runs anew', async () => {
      const vm = await host.vm('web');
      return vm.state === 'running' && vm.startedAt !== startedAt;
    });
    assert.equal((await host.vm('web')).lastEnd?.kind, 'panic');
  });

  it('whose VMM is killed says so', LIMIT, async () => {
    await host.ok('set', 'web', '--restart', 'never');
    const { pid } = await host.vm('web');
    process.kill(pid ?? 0, 'SIGKILL');
    await until('it has failed', async () => (await host.vm('web')).state === 'failed', 60_000);
    const { lastEnd } = await host.vm('web');
    assert.ok(lastEnd?.kind === 'vmm' || lastEnd?.kind === 'memory', String(lastEnd?.kind));
    assert.match(lastEnd?.why ?? '', /killed by SIGKILL/);
  });
});
