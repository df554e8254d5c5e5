import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { showsKnownFault } from './known-fault.ts';

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
