import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { showsFaultOfRig, showsFaultsToTheStacksEnd, showsFrameOverRegisters, showsKnownFault } from './known-fault.ts';

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
    assert.ok(showsFaultOfRig(FRAME));
  });

  it('is no other panic, and nothing that the kernel survives', () => {
    assert.ok(!showsFrameOverRegisters(FRAME.replace('R12: 0000000000000082', 'R12: 0000000000000282')));
    assert.ok(!showsFrameOverRegisters(FRAME.replace('RBP: 0000000000000018', 'RBP: ffffc9000000f9f8')));
    assert.ok(!showsFrameOverRegisters(FRAME.replace('Kernel panic', 'BUG')));
    assert.ok(!showsFrameOverRegisters('Kernel panic - not syncing: sysrq triggered crash'));
    assert.ok(!showsFrameOverRegisters(''));
  });

  it('is an entry that faults to the end of the stack, after the exit of a guest', () => {
    assert.ok(showsFaultsToTheStacksEnd(STACK));
    assert.ok(showsFaultOfRig(STACK));
    assert.ok(!showsFrameOverRegisters(STACK));
    assert.ok(!showsFaultsToTheStacksEnd(STACK.replace(' svm_vcpu_enter_exit', ' ? svm_vcpu_enter_exit')));
    assert.ok(!showsFaultsToTheStacksEnd(STACK.replace('bff8', 'b000')), 'another address');
    assert.ok(!showsFaultsToTheStacksEnd(STACK.replace('RSP: 0018:ffffc9000126c000', 'RSP: 0018:ffffc9000126c008')));
    assert.ok(!showsFaultsToTheStacksEnd(STACK.replace('EFLAGS: 00000083', 'EFLAGS: 00000283')));
    assert.ok(!showsFaultsToTheStacksEnd(STACK.replace('0010:error_entry', '0010:do_syscall_64')));
    assert.ok(!showsFaultsToTheStacksEnd(STACK.replace('Kernel panic', 'BUG')));
  });
});

/** Of a rig with Firecracker 1.16.1, without what the interrupted program was. */
const STACK = `
[ 2084.322111] RSP: 0018:ffffc9000126fae0 EFLAGS: 00000246
[ 2084.322122] RAX: 0000000018815000 RBX: 0000000000140cca RCX: 0000000000000014
[ 2084.322305]  svm_vcpu_enter_exit+0x28/0x60 [kvm_amd]
[ 2084.322355]  svm_vcpu_run+0x1b8/0x6c0 [kvm_amd]
[ 2084.322401]  kvm_arch_vcpu_ioctl_run+0x8be/0x1750 [kvm]
[ 2084.323633] RIP: 0033:0x7f052d5cfd6b
[ 2084.324146] RSP: 002b:00007f052d203780 EFLAGS: 00000246 ORIG_RAX: 0000000000000010
[ 2084.324388]  </TASK>
[ 2084.832475] ---[ end trace 0000000000000000 ]---
[ 2084.832599] RIP: 0010:error_entry+0x10/0x130
[ 2084.832659] RSP: 0018:ffffc9000126c000 EFLAGS: 00000083
[ 2084.832677] RAX: 00000000000481a0 RBX: ffffc9000126c088 RCX: ffffffff81c01199
[ 2084.832742] FS:  0000000000000000(0000) GS:ffff88817ac00000(0000) knlGS:0000000000000000
[ 2084.832760] CR2: ffffc9000126bff8 CR3: 0000000003d04000 CR4: 00000000003506b0
[ 2084.832965] Kernel panic - not syncing: Fatal exception in interrupt`;
