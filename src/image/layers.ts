/** Keys of layers, and which are worth their room: a layer is the disk after a step, named by all it depends on. */
import { createHash } from 'node:crypto';

/** Raised whenever the same steps would leave another disk. */
const BUILDER_VERSION = 2;

/** A step as far as keys are concerned. */
export interface KeyedStep {
  /** e.g. `packages`, `run` */
  kind: string;
  /** everything the step depends on beside the disk it begins with */
  inputs: unknown;
}

/** Key of the disk no step has touched: a root file system by its digest, grown to a size. */
export function baseKey(rootDigest: string, sizeBytes: number): string {
  return digest({ version: BUILDER_VERSION, root: rootDigest, sizeBytes });
}

/** Key of the disk after a step. */
export function stepKey(parent: string, step: KeyedStep): string {
  return digest({ parent, kind: step.kind, inputs: step.inputs });
}

/** Keys after each step, in order. */
export function chainKeys(base: string, steps: readonly KeyedStep[]): string[] {
  const keys: string[] = [];
  for (const step of steps) keys.push(stepKey(keys.at(-1) ?? base, step));
  return keys;
}

export interface LayerWorth {
  /** whether copies share blocks and so cost nothing */
  shares: boolean;
  /** work since the last disk that can be begun from, in `ms` */
  workMs: number;
  /** what a copy takes, in `bytes` */
  copyBytes: number;
  /** whether the next step is the last of the kind that is changed most */
  beforeLast: boolean;
}

/** What a page cache copies in a millisecond at least. */
const COPY_BYTES_PER_MS = 250_000;
/** A layer is used some time perhaps, its copy is paid for now. */
const WORTH_FACTOR = 3;

/** Whether a copy of the disk pays for the work it may save. */
export function isWorthKeeping({ shares, workMs, copyBytes, beforeLast }: LayerWorth): boolean {
  if (shares) return true;
  if (workMs === 0) return false;
  return beforeLast || workMs > (copyBytes / COPY_BYTES_PER_MS) * WORTH_FACTOR;
}

/** JSON with its keys sorted, so that equal values have equal digests. */
function digest(value: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify(sorted(value)))
    .digest('hex');
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, item]) => [key, sorted(item)]));
}
