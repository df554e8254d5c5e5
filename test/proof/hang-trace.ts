/**
 * The second form of the known fault, told by the kernel's own trace: QEMU's world switch leaves the state of the host in the
 * guest's control block. KVM then enters a guest that stands in KVM's own code, whose page tables are the host's, and does so
 * for ever: a nested page fault follows the other at the same place. No guest ever stands there.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';

export const TRACING = '/sys/kernel/tracing';
const EVENT = `${TRACING}/events/kvm/kvm_exit`;
/** SVM_EXIT_NPF of `arch/x86/include/uapi/asm/svm.h`. */
const NESTED_PAGE_FAULT = 0x400;
/** More than the length of the function, less than what lies between it and the end of its module. */
const ENTRY_BYTES = 0x200n;
/** A hung guest exits thousands of times a second; a module of a guest that lies at the same address does so once or twice. */
const HUNG_EXITS = 200;

/** Lets the kernel note the exits of hung guests from now on. */
export function watchForHangs(): void {
  execFileSync('sh', ['-c', watchScript(readFileSync('/proc/kallsyms', 'latin1'))]);
}

/**
 * A shell script that does it where these are the kernel's symbols, in the form of /proc/kallsyms.
 * @throws Error when they lack what KVM enters guests by
 */
export function watchScript(symbols: string): string {
  const symbol = /^([0-9a-f]+) \w __svm_vcpu_run\b/m.exec(symbols)?.[1];
  if (symbol === undefined) throw new Error('/proc/kallsyms has no __svm_vcpu_run: kvm_amd is not loaded');
  const from = BigInt(`0x${symbol}`);
  const there = `guest_rip >= 0x${from.toString(16)} && guest_rip < 0x${(from + ENTRY_BYTES).toString(16)}`;
  return [
    'set -e',
    `test -e ${EVENT} || mount -t tracefs tracefs ${TRACING}`,
    `echo 128 > ${TRACING}/buffer_size_kb`,
    `echo 'exit_reason == ${NESTED_PAGE_FAULT} && ${there}' > ${EVENT}/filter`,
    `echo 1 > ${EVENT}/enable`,
    `: > ${TRACING}/trace`,
    `echo 1 > ${TRACING}/tracing_on`,
  ].join('\n');
}

export interface Hang {
  /** the last exit of the guest, as the kernel noted it */
  evidence: string;
  /** thread of its processor */
  tid: number;
}

/** What was noted since the last call; undefined when no guest hung. */
export function hangSeen(): Hang | undefined {
  const trace = readFileSync(`${TRACING}/trace`, 'latin1');
  writeFileSync(`${TRACING}/trace`, '');
  return hangIn(trace);
}

/** The guest that hung last in a trace. */
export function hangIn(trace: string): Hang | undefined {
  const exits = trace.split('\n').flatMap((line) => {
    const tid = /-(\d+) +\[\d+\].* kvm_exit: .*reason npf rip 0x[0-9a-f]+/.exec(line)?.[1];
    return tid === undefined
      ? []
      : [{ evidence: `a guest stands in KVM's own code:\n${line.trim()}`, tid: Number(tid) }];
  });
  const last = exits.at(-1);
  return exits.filter(({ tid }) => tid === last?.tid).length < HUNG_EXITS ? undefined : last;
}
