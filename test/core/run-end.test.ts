import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { judgeGuestEnd } from '../../src/core/run-end.ts';
import { paced } from '../support/pace.ts';

const BOOT = 'banger-init: handover\nDebian GNU/Linux 12 web ttyS0\n\nweb login: \n';
const PANIC = `[   61.203] Kernel panic - not syncing: sysrq triggered crash
[   61.204] CPU: 0 PID: 211 Comm: sh Not tainted 6.1.0-18-cloud-amd64
[   61.205] Call Trace:
[   61.206]  panic+0x118/0x2ed
[   61.301] Kernel Offset: 0x2e000000 from 0xffffffff81000000
[   61.302] Rebooting in 1 seconds..
`;
const REBOOT = '[   70.000] reboot: Restarting system\n';
const POWER_OFF = '[   70.000] reboot: Power down\n';

describe('the end of a run', () => {
  it('is a panic when that is what the kernel said last, with what it said', () => {
    const end = judgeGuestEnd(`${BOOT}[   61.202] sysrq: Trigger a crash\n${PANIC}`);
    assert.ok(end.kind === 'panic');
    assert.equal(end.why, 'The kernel of its guest panicked: sysrq triggered crash');
    assert.equal(end.lines.at(-1), '[   61.302] Rebooting in 1 seconds..');
    assert.ok(end.lines.includes('[   61.202] sysrq: Trigger a crash'));
    assert.ok(end.lines.includes('[   61.203] Kernel panic - not syncing: sysrq triggered crash'));
  });

  it('is a reboot or a power off whatever somebody in the guest has printed before', () => {
    assert.deepEqual(judgeGuestEnd(`${BOOT}${PANIC}${REBOOT}`), { kind: 'reboot' });
    assert.deepEqual(judgeGuestEnd(`${BOOT}${POWER_OFF}${REBOOT}`), { kind: 'reboot' });
    assert.deepEqual(judgeGuestEnd(`${BOOT}${REBOOT}${POWER_OFF}`), { kind: 'poweroff' });
    assert.deepEqual(judgeGuestEnd(`${BOOT}[ 9.1] sysrq: Resetting\n`), { kind: 'reboot' });
    assert.equal(judgeGuestEnd(`${BOOT}${REBOOT}${PANIC}`).kind, 'panic');
  });

  it('is a reset when the kernel said nothing, and nothing is made of a console that was never written to', () => {
    const end = judgeGuestEnd(BOOT);
    assert.ok(end.kind === 'reset');
    assert.match(end.why, /reset without a word of its kernel, as by a triple fault/);
    assert.deepEqual(end.lines, ['banger-init: handover', 'Debian GNU/Linux 12 web ttyS0', 'web login:']);
    assert.deepEqual(judgeGuestEnd(''), { kind: 'reboot' });
  });

  it('is judged in no time however a guest prints it', () => {
    const began = performance.now();
    for (const noise of ['Kernel panic - not syncing: ', '\n', 'reboot: ', '[', 'x'.repeat(1000)]) {
      const end = judgeGuestEnd(noise.repeat(Math.ceil(65_536 / noise.length)));
      if ('lines' in end) assert.ok(end.lines.every((line) => line.length <= 300) && end.lines.length <= 40);
    }
    assert.ok(performance.now() - began < paced(200));
  });
});
