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

/** A register that a task had saved on its stack when it was scheduled out, as a panic shows it. */
const register = (name: string): RegExp => new RegExp(`\\b${name}: ([0-9a-f]{16})\\b`);

const KERNEL_CS = 0x10n;
const KERNEL_SS = 0x18n;
/** What the entry of an interrupt pushes where a system call has its number. */
const NO_SYSTEM_CALL = 0xffff_ffff_ffff_ffffn;
/** Bit 9 of RFLAGS: interrupts are on. */
const INTERRUPTS_ON = 1n << 9n;

/**
 * The same in the kernel of the rig itself: it panics in its scheduler, because a task finds the frame of an interrupt where it
 * had saved its registers (`__switch_to_asm`: R15, R14, R13, R12, RBX, RBP lie where the frame has -1, RIP, CS, RFLAGS, RSP, SS),
 * and that interrupt came while interrupts were off.
 */
export function showsFrameOverRegisters(console: string): boolean {
  const panic = console.lastIndexOf('Kernel panic - not syncing');
  if (panic === -1) return false;
  const [r15, r13, r12, rbp] = ['R15', 'R13', 'R12', 'RBP'].map((name) => {
    const hex = register(name).exec(console.slice(0, panic))?.[1];
    return hex === undefined ? undefined : BigInt(`0x${hex}`);
  });
  if (r12 === undefined) return false;
  return r15 === NO_SYSTEM_CALL && r13 === KERNEL_CS && rbp === KERNEL_SS && (r12 & INTERRUPTS_ON) === 0n;
}

/** RIP, and where its stack was, as the last dump before a panic shows them. */
const FAULTING = /RIP: 0010:(\w+)\+0x[\s\S]*?RSP: 0018:([0-9a-f]{16}) EFLAGS: ([0-9a-f]{8})/g;
const CR2 = /\bCR2: ([0-9a-f]{16})\b/g;
const PAGE = 0x1000n;

/**
 * Once more in the kernel of the rig: between a guest's exit and the return to the host's own segments (`__svm_vcpu_run`, where the
 * global interrupt flag is off) something is delivered to the host. Its entry uses the guest's GS, faults, and each of these
 * faults does so again, until the stack ends.
 */
export function showsFaultsToTheStacksEnd(console: string): boolean {
  const panic = console.lastIndexOf('Kernel panic - not syncing');
  if (panic === -1) return false;
  const before = console.slice(0, panic);
  const [, at, stack = '', flags = ''] = [...before.matchAll(FAULTING)].at(-1) ?? [];
  const touched = [...before.matchAll(CR2)].at(-1)?.[1];
  if (at !== 'error_entry' || touched === undefined) return false;
  const rsp = BigInt(`0x${stack}`);
  const stackEnded = rsp % PAGE === 0n && BigInt(`0x${touched}`) === rsp - 8n;
  return stackEnded && (BigInt(`0x${flags}`) & INTERRUPTS_ON) === 0n && /\] +svm_vcpu_enter_exit\+0x/.test(before);
}

/** Whether it was the fault that ended the rig itself. */
export function showsFaultOfRig(console: string): boolean {
  return showsFrameOverRegisters(console) || showsFaultsToTheStacksEnd(console);
}
