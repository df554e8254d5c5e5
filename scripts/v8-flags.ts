/**
 * V8 of Node 26.10 keeps numbers that closures share in cells which its Maglev compiler reads stale after
 * on-stack replacement: one byte in 50 MB of an unpacked kernel went wrong, once in every process. Without the
 * cells it does not happen. See docs/decisions/0009.
 */
const NEEDED = ['--no-function-context-cells'];

/** More of them for one build: words of `BANGER_BUILD_V8_FLAGS`, which has its value in the executable from when that was built. */
const more = process.env.BANGER_BUILD_V8_FLAGS;

export const V8_FLAGS: readonly string[] = more ? [...NEEDED, ...more.split(' ')] : NEEDED;
