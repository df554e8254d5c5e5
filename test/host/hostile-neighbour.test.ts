/**
 * A guest that does its worst in every way at once, beside a quiet one: commands in the quiet VM and the command line take no
 * more than twice the time that they take while the hostile one is held. Both are measured in turns, so that what else goes
 * on on this host is in both.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectVmm } from '../../src/firecracker/api.ts';
import { setState } from '../../src/firecracker/requests.ts';
import { hostSkip, type Running, TestHost } from '../support/host.ts';
import { leanBundle } from '../support/lean-bundle.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(300_000) };
const TURNS = 7;
/** A median of this many turns still meets the scheduler: what is too slow in all of them is too slow. */
const SERIES = 3;
/** What a flood needs to be one again after it was held. */
const FLOODED_MS = 500;

/** Everything goes on until the guest ends. `$1` is its gateway, `$2` the address of its neighbour. */
const ATTACK = String.raw`
(yes "$(printf '\r\033[2J\033]0;mine\007\302\2337m%080d' 0)" > /dev/ttyS0) &
(while :; do dd if=/dev/zero of=/root/fill bs=1M; rm -f /root/fill; done) &
bash -c 'while :; do head -c 300 /dev/urandom > /dev/udp/'$1'/53; done' &
bash -c 'while :; do printf "\x12\x34\x01\0\0\1\0\0\0\0\0\0\x4good\x2vm\0\0\1\0\1" > /dev/udp/'$1'/53; done' &
bash -c 'while :; do (head -c 70000 /dev/urandom > /dev/tcp/'$1'/53); done' &
ip route add 10.1.0.0/16 dev eth0
bash -c 'while :; do for n in $(seq 250); do echo > /dev/udp/10.1.$((RANDOM % 250)).$n/9; done; done' &
bash -c 'while :; do for n in 1 2 3 4 5 6 7 8; do (exec 3<> /dev/tcp/'$2'/22; sleep 5) & done; sleep 0.2; done' &
bash -c 'while :; do (exec 3<> /dev/tcp/'$1'/$((RANDOM + 1))); done' &
`;

describe('a hostile guest beside a quiet one', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;
  let unread: Running | undefined;

  before(async () => {
    const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', join(import.meta.dirname, '../../.dev'));
    host = await TestHost.create({ env: { BANGER_BUNDLE_DEFAULT: bundle } });
    await host.daemon();
    const one = ['--vcpus', '1'];
    await Promise.all([host.ok('run', 'evil', ...one, '--work-disk', '64M'), host.ok('run', 'good', ...one)]);
  });
  after(async () => {
    unread?.child.kill('SIGKILL');
    await host?.[Symbol.asyncDispose]();
  });

  async function hold(state: 'Paused' | 'Resumed'): Promise<void> {
    const { id } = await host.vm('evil');
    await using api = connectVmm(join(host.home, 'run/vmm', `${id}.sock`));
    await api.send(setState(state));
  }

  async function timeOf(...args: string[]): Promise<number> {
    const began = performance.now();
    await host.ok(...args);
    return performance.now() - began;
  }

  it('makes commands and the command line no more than twice as slow', LIMIT, async (t) => {
    const { pool, pid } = await host.client.call('status', {});
    const [gateway, { address }] = [pool.replace(/\.0\/\d+$/, '.1'), await host.vm('good')];
    await host.ok(
      'exec',
      '-n',
      'evil',
      '--',
      'sh',
      '-c',
      `{ ${ATTACK} } < /dev/null > /dev/null 2>&1`,
      'sh',
      gateway,
      address,
    );
    // output that nobody takes, then an SSH server that says nothing any more
    unread = host.begin(['exec', '-n', 'evil', '--', 'yes']);
    unread.child.stdout?.pause();
    await sleep(2000);
    await host.ok(
      'exec',
      '-n',
      'evil',
      '--',
      'sh',
      '-c',
      '(sleep 1; kill -STOP $(cat /run/sshd.pid /run/banger/early-sshd.pid)) > /dev/null 2>&1 &',
    );

    const probes = { exec: ['exec', '-n', 'good', '--', 'true'], ls: ['ls'] };
    const quiet = { exec: [] as number[], ls: [] as number[] };
    const hostile = { exec: [] as number[], ls: [] as number[] };
    const measure = async (times: typeof quiet) => {
      for (const name of ['exec', 'ls'] as const) times[name].push(await timeOf(...probes[name]));
    };
    for (let series = 1; ; series++) {
      for (let turn = 0; turn < TURNS; turn++) {
        await hold('Paused');
        await measure(quiet);
        await hold('Resumed');
        await sleep(FLOODED_MS);
        await measure(hostile);
      }
      const ratios = (['exec', 'ls'] as const).map((name) => median(hostile[name]) / median(quiet[name]));
      const told = (['exec', 'ls'] as const).map(
        (name) => `${name} ${Math.round(median(quiet[name]))} to ${Math.round(median(hostile[name]))} ms`,
      );
      t.diagnostic(`after ${series * TURNS} turns: ${told.join(', ')}`);
      if (ratios.every((ratio) => ratio <= 2)) break;
      assert.ok(series < SERIES, told.join(', '));
    }
    assert.equal((await host.client.call('status', {})).pid, pid, 'it is the same daemon');
  });

  it('is still what its owner says: it is shown, logged and ended', LIMIT, async () => {
    const { stdout } = await host.run(['logs', 'evil', '--lines', '5']);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not come through
    assert.doesNotMatch(stdout, /[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]/);
    await host.ok('kill', 'evil');
    assert.equal((await host.vm('evil')).state, 'stopped');
    assert.equal(await host.guest('good', 'echo here'), 'here');
  });
});

function median(times: readonly number[]): number {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
