/**
 * Files of tests, given to several rigs, each to the next one that has nothing to do. A rig that is lost takes the file that
 * ran in it along, and nothing else: the others are run in a new one. A file that met the known fault of the emulated processor,
 * in a guest with a failed test or in the rig's own kernel, is run again, at most twice; any other failure stands.
 */
import { messageOf } from '../../src/errors.ts';
import type { Outcome, ProofVmm, Repeat } from './outcome.ts';
import { REPEATS } from './repeat.ts';

/** What runs a file; see Rig. */
export interface Prover extends AsyncDisposable {
  /** @throws Error when it is lost; it has `evidence`, a text, where that was by the known fault */
  prove(vmm: ProofVmm, file: string): Promise<Outcome>;
}

export interface QueueOptions {
  vmms: readonly ProofVmm[];
  files: readonly string[];
  /** how many rigs may run at once */
  rigs: number;
  /** makes the rig of this number, from 1 on; one at a time */
  start: (number: number) => Promise<Prover>;
  /** what is going on, one line each */
  tell: (text: string) => void;
  signal: AbortSignal;
}

/** What the loss of a rig is reported as. */
export const LOST = 'the rig was lost';

/**
 * @returns what came of the files, as far as `signal` let them run; by VMM, in the order in which they were given
 * @throws Error when no rig can be made
 */
export async function proveAll({ vmms, files, rigs, start, tell, signal }: QueueOptions): Promise<Outcome[]> {
  const waiting = vmms.flatMap((vmm) => files.map((file): Next => ({ vmm, file, repeats: [] })));
  const began = performance.now();
  const ended: Outcome[] = [];
  // they share what is carried in
  let making: Promise<unknown> = Promise.resolve();
  const make = (number: number): Promise<Prover> => {
    const made = making.then(() => start(number));
    making = made.catch(() => {});
    return made;
  };

  /** Puts a file first in the queue once more if the fault was seen and it may be repeated. */
  const again = (next: Next, evidence: string | undefined): boolean => {
    if (evidence === undefined || next.repeats.length >= REPEATS) return false;
    tell(`${next.file} met the known fault of the emulated processor and is run again:\n${evidence}\n`);
    waiting.unshift({ ...next, repeats: [...next.repeats, { file: next.file, evidence }] });
    return true;
  };

  const work = async (number: number): Promise<void> => {
    let rig: Prover | undefined;
    try {
      while (!signal.aborted) {
        // before a rig is made for nothing
        if (waiting.length === 0) return;
        rig ??= await make(number);
        const next = waiting.shift();
        if (next === undefined) return;
        const at = performance.now();
        try {
          const { evidence, ...outcome } = await rig.prove(next.vmm, next.file);
          if (!again(next, evidence)) ended.push({ ...outcome, repeats: next.repeats });
        } catch (error) {
          if (signal.aborted) return;
          tell(`${next.file}: ${LOST}: ${messageOf(error)}`);
          if (!again(next, evidenceOf(error))) ended.push(lost(next, performance.now() - at, messageOf(error)));
          await rig[Symbol.asyncDispose]();
          rig = undefined;
        }
      }
    } finally {
      await rig?.[Symbol.asyncDispose]();
    }
  };

  const numbers = Array.from({ length: Math.min(rigs, waiting.length) }, (_, n) => n + 1);
  const results = await Promise.allSettled(numbers.map(work));
  const refused = results.find((result) => result.status === 'rejected');
  // the others may have done what it would have
  if (refused !== undefined && !signal.aborted && (waiting.length > 0 || ended.length === 0)) throw refused.reason;
  return vmms.flatMap((vmm) => {
    const of = ended.filter((each) => each.vmm === vmm);
    return of.length === 0 ? [] : [together(of, files, performance.now() - began)];
  });
}

interface Next {
  vmm: ProofVmm;
  file: string;
  /** what it was run again for */
  repeats: Repeat[];
}

function evidenceOf(error: unknown): string | undefined {
  return error instanceof Error && 'evidence' in error && typeof error.evidence === 'string'
    ? error.evidence
    : undefined;
}

function lost({ vmm, file, repeats }: Next, ms: number, why: string): Outcome {
  const tests = [{ file, name: LOST, outcome: 'failed' as const, ms, why }];
  return { vmm, acceleration: '', version: '', kernel: '', pace: 1, files: [file], tests, repeats, ms };
}

/** The outcomes of single files as one; what is said of the rig is what the first that told it said. */
function together(outcomes: readonly Outcome[], files: readonly string[], ms: number): Outcome {
  const told = outcomes.find(({ version }) => version !== '') ?? outcomes[0];
  if (told === undefined) throw new Error('There is no outcome.');
  const ordered = files.flatMap((file) => outcomes.filter((outcome) => outcome.files.includes(file)));
  return {
    ...told,
    files: ordered.flatMap((outcome) => outcome.files),
    tests: ordered.flatMap(({ tests }) => tests),
    repeats: ordered.flatMap(({ repeats }) => repeats),
    ms,
  };
}
