/** What one run of host tests in the rig came to: written there, read outside, a row of the table in docs/proof.md. */

export type ProofVmm = 'fcqemu' | 'firecracker';

export interface ProvenTest {
  /** relative to the project */
  file: string;
  name: string;
  outcome: 'passed' | 'failed' | 'skipped';
  ms: number;
  /** why it failed or was skipped */
  why?: string;
}

export interface Repeat {
  file: string;
  /** lines of the console that showed the known fault */
  evidence: string;
}

export interface Outcome {
  vmm: ProofVmm;
  /** what banger says it runs guests with here */
  acceleration: string;
  /** the VMM's own answer to `--version`, and QEMU's under fcqemu */
  version: string;
  /** kernel of the rig, which is that of its guests too */
  kernel: string;
  /** see test/support/pace.ts */
  pace: number;
  files: string[];
  /** of the last run of each file */
  tests: ProvenTest[];
  repeats: Repeat[];
  /** of the known fault, where a test of the only file failed and it was seen: the file is to be run again */
  evidence?: string;
  ms: number;
}

export function count(outcome: Outcome, kind: ProvenTest['outcome']): number {
  return outcome.tests.filter(({ outcome: is }) => is === kind).length;
}
