/**
 * V8 of Node 26.10 keeps numbers that closures share in cells which its Maglev compiler reads stale after
 * on-stack replacement: one byte in 50 MB of an unpacked kernel went wrong, once in every process. Without the
 * cells it does not happen. See docs/decisions/0009.
 */
export const V8_FLAGS = ['--no-function-context-cells'] as const;
