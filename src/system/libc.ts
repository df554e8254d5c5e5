/**
 * The C library, by `node:ffi`: an experiment of Node's (docs/decisions/0045), so nothing may depend on it. This is the
 * only place that opens it.
 */
import type { dlopen } from 'node:ffi';

/** Name → arguments and result of a C function. */
export type Signatures = Parameters<typeof dlopen>[1] & object;

export type Functions<S extends Signatures> = ReturnType<typeof dlopen<S>>['functions'];

/** @returns undefined where there is no such module, or a C library that lacks one of the functions */
export async function loadLibc<const S extends Signatures>(signatures: S): Promise<Functions<S> | undefined> {
  try {
    const ffi = await import('node:ffi');
    return ffi.dlopen(null, signatures).functions;
  } catch {
    return undefined;
  }
}
