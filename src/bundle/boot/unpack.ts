/** Compressed kernels and modules: gzip and zstd by Node, what Node does not have by the program that packs it. */
import { type Duplex, PassThrough, type Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { BangerError } from '../../errors.ts';
import type { Argv, Runner } from '../../system/runner.ts';
import type { BundlePrograms } from '../programs.ts';

export type Compression = 'none' | 'gzip' | 'xz' | 'zstd' | 'lz4';

export interface UnpackDeps {
  runner: Runner;
  programs: Pick<BundlePrograms, 'xz' | 'lz4'>;
}

const SIGNATURES: [Compression, number[]][] = [
  ['none', [0x7f, 0x45, 0x4c, 0x46]],
  ['gzip', [0x1f, 0x8b]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  // the legacy frame, which is what the kernel build's `lz4 -l` writes
  ['lz4', [0x02, 0x21, 0x4c, 0x18]],
];

/** The largest kernel takes a busy host some seconds. */
const LIMIT_MS = 10 * 60_000;

/** The compression a file begins with, by its magic number. */
export function detectCompression(start: Uint8Array): Compression | undefined {
  return SIGNATURES.find(([, magic]) => magic.every((byte, index) => start[index] === byte))?.[0];
}

/**
 * The decompressed bytes of a stream. Whoever stops reading ends the work.
 * @throws BangerError `corrupt` when a program refuses the data, `host_unprepared` when it is not installed; Node's own
 *   error for gzip and zstd
 */
export function unpack(input: Readable, compression: Compression, deps: UnpackDeps): AsyncIterable<Buffer> {
  switch (compression) {
    case 'none':
      return input;
    case 'gzip':
      return through(input, createGunzip());
    case 'zstd':
      return through(input, createZstdDecompress());
    case 'xz':
      return throughProgram(input, [deps.programs.xz, '--decompress', '--stdout'], deps.runner);
    case 'lz4':
      return throughProgram(input, [deps.programs.lz4, '-d', '-c', '-q'], deps.runner);
  }
}

/** `pipe` alone would lose the reader's errors. */
function through(input: Readable, decoder: Duplex): AsyncIterable<Buffer> {
  input.once('error', (error) => decoder.destroy(error));
  return input.pipe(decoder);
}

async function* throughProgram(input: Readable, argv: Argv, runner: Runner): AsyncGenerator<Buffer> {
  const output = new PassThrough();
  const left = new AbortController();
  const end = runner.run(argv, { input, output, timeoutMs: LIMIT_MS, signal: left.signal }).then(
    () => void output.end(),
    (error: unknown) => void output.destroy(asCorrupt(error)),
  );
  try {
    yield* output as AsyncIterable<Buffer>;
  } finally {
    left.abort();
    await end;
    input.destroy();
  }
}

/** A program that reads the data and ends with an error has found them damaged. */
function asCorrupt(error: unknown): Error {
  if (error instanceof BangerError && error.code === 'command_failed') {
    return new BangerError('corrupt', error.message, { cause: error });
  }
  return error instanceof Error ? error : new Error(String(error));
}
