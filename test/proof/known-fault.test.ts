import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { showsFrameOverRegisters, showsKnownFault } from './known-fault.ts';

const NEST = `
[    3.412] BUG: unable to handle page fault for address: ffffffff81c00f10
[    3.413] RIP: 0010:error_entry+0x1c/0x140
[    3.414] Call Trace:
[    3.414]  asm_exc_page_fault+0x22/0x30
[    3.415] RIP: 0010:asm_sysvec_apic_timer_interrupt+0x0/0x20
[    3.416]  ? asm_exc_page_fault+0x22/0x30
[    3.417] Kernel panic - not syncing: Fatal exception in interrupt`;

describe('the known fault of the emulated processor', () => {
  it('is faults on top of each other at the first instruction of the timer interrupt', () => {
    assert.ok(showsKnownFault(NEST));
    assert.ok(showsKnownFault(NEST.replaceAll('asm_exc_page_fault', 'error_entry').replaceAll('\n', '\r\n')));
  });

  it('is no other panic, and no interrupt that came at another place', () => {
    assert.ok(!showsKnownFault('Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)'));
    assert.ok(!showsKnownFault(NEST.replace('interrupt+0x0/', 'interrupt+0x16/')));
    const single = 'RIP: 0010:asm_sysvec_apic_timer_interrupt+0x0/0x20\n asm_exc_page_fault+0x22/0x30';
    assert.ok(!showsKnownFault(single), 'one page fault');
    assert.ok(!showsKnownFault(''));
  });
});

const FRAME = `
[ 1005.722] RSP: 0018:ffffc9000000f9c8 EFLAGS: 00000283
[ 1005.723] RBP: 0000000000000018 R08: 0000000000000000 R09: 0000000000000000
[ 1005.724] R10: 0000000000000000 R11: 0000000000000000 R12: 0000000000000082
[ 1005.725] R13: 0000000000000010 R14: ffffffff810680b3 R15: ffffffffffffffff
[ 1005.726] FS:  00007f7768933940(0000) GS:ffff88817ac00000(0000) knlGS:0000000000000000
[ 1005.738] note: systemd[1] exited with irqs disabled
[ 1005.742] Kernel panic - not syncing: corrupted stack end detected inside scheduler`;

describe('the known fault in the kernel of the rig', () => {
  it('is the frame of an interrupt, which came while interrupts were off, in place of saved registers', () => {
    assert.ok(showsFrameOverRegisters(FRAME));
  });

  it('is no other panic, and nothing that the kernel survives', () => {
    assert.ok(!showsFrameOverRegisters(FRAME.replace('R12: 0000000000000082', 'R12: 0000000000000282')));
    assert.ok(!showsFrameOverRegisters(FRAME.replace('RBP: 0000000000000018', 'RBP: ffffc9000000f9f8')));
    assert.ok(!showsFrameOverRegisters(FRAME.replace('Kernel panic', 'BUG')));
    assert.ok(!showsFrameOverRegisters('Kernel panic - not syncing: sysrq triggered crash'));
    assert.ok(!showsFrameOverRegisters(''));
  });
});
