/**
 * The one fault of the place itself. QEMU's emulation of SVM now and then gives a nested guest its timer interrupt where
 * it must not have one: the kernel's entry for it faults at its first instruction, the fault's own entry faults again, and
 * the guest panics with that nest on its console. No guest under a real processor does that, so a test that met exactly
 * this is run again; docs/proof.md has the counts.
 */

/** The instruction that cannot fault: the first of the timer interrupt's entry. */
const AT_FIRST_INSTRUCTION = /asm_sysvec_apic_timer_interrupt\+0x0\//;

/** The fault whose handling faults. */
const NEST = /\b(asm_exc_page_fault|error_entry)\+0x/g;

/** More than one fault on top of each other; a single page fault is everyday life. */
const FAULTS_IN_A_NEST = 2;

/** Whether this console, or whatever quotes it, shows the fault and not only a panic. */
export function showsKnownFault(console: string): boolean {
  if (!AT_FIRST_INSTRUCTION.test(console)) return false;
  return (console.match(NEST)?.length ?? 0) >= FAULTS_IN_A_NEST;
}
