/** A layer as a stream of its plain bytes, both of its digests computed on the way. */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { pipeline, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { BangerError, messageOf, systemCode } from '../errors.ts';

export interface LayerBlob {
  path: string;
  /** `sha256:HEX` of the file */
  digest: string;
  /** `sha256:HEX` of the plain archive */
  diffId: string;
  /** `bytes` of the file */
  size: number;
}

export interface LayerRead {
  blob: LayerBlob;
  /** whether the digests are compared; they were before when not */
  verify: boolean;
  signal: AbortSignal;
  /** called with `bytes` of the file that were read */
  onBytes?: (bytes: number) => void;
}

/** As much as the C library still gives back at once (DAEMON_MEMORY); twice as much has the daemon grow by 10 MB. */
const CHUNK_BYTES = 128 * 1024;

/**
 * Gives the plain bytes of a layer to `take`, one piece after the other.
 * @throws BangerError `corrupt` when the layer is damaged or another than its digests say, `cancelled` when `signal` was aborted
 */
export async function readLayer(read: LayerRead, take: (chunk: Buffer) => Promise<void>): Promise<void> {
  const { blob, verify, signal } = read;
  const packed = createHash('sha256');
  const plain = createHash('sha256');
  const unpack = await decompressorOf(blob);
  let broken: unknown;
  const noteFailure = (error?: Error | null) => {
    broken = error ?? undefined;
  };
  const file = chunksOf(read, packed);
  try {
    for await (const chunk of unpack ? pipeline(file, unpack, noteFailure) : file) {
      signal.throwIfAborted();
      if (verify) plain.update(chunk as Buffer);
      await take(chunk as Buffer);
    }
  } catch (error) {
    signal.throwIfAborted();
    throw ownFault(blob, broken ?? error);
  } finally {
    unpack?.destroy();
  }
  if (!verify) return;
  requireDigest(packed, blob.digest, `The layer ${short(blob.digest)} is damaged: it is not what its digest says.`);
  requireDigest(
    plain,
    blob.diffId,
    `The layer ${short(blob.digest)} unpacks to something else than the image's configuration says (${short(blob.diffId)}).`,
  );
}

/** The first 12 digits, which is how people name them. */
export function short(digest: string): string {
  return digest.replace(/^sha256:/, '').slice(0, 12);
}

async function* chunksOf({ blob, verify, onBytes }: LayerRead, hash: Hash): AsyncGenerator<Buffer> {
  await using file = await openLayer(blob);
  for (;;) {
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES);
    if (bytesRead === 0) return;
    const chunk = buffer.subarray(0, bytesRead);
    if (verify) hash.update(chunk);
    onBytes?.(bytesRead);
    yield chunk;
  }
}

async function openLayer({ path, digest, size }: LayerBlob): Promise<FileHandle> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw new BangerError('corrupt', `The layer ${short(digest)} is missing.`, { cause: error, hint: AGAIN });
  });
  const { size: there } = await file.stat();
  if (there === size) return file;
  await file.close();
  const how = there < size ? 'cut short' : 'too long';
  throw new BangerError('corrupt', `The layer ${short(digest)} is ${how}: it has ${there} of ${size} bytes.`, {
    hint: AGAIN,
    details: { digest },
  });
}

const AGAIN = 'Get the image again; what is wrong with it here is not kept.';

function requireDigest(hash: Hash, wanted: string, message: string): void {
  if (`sha256:${hash.digest('hex')}` === wanted) return;
  throw new BangerError('corrupt', message, { hint: AGAIN, details: { digest: wanted } });
}

/** Errors of zlib say what is wrong with the data; ours, and those of the host, stay what they are. */
function ownFault(blob: LayerBlob, error: unknown): unknown {
  if (error instanceof BangerError) {
    if (error.code !== 'corrupt') return error;
    return error.reworded(`The layer ${short(blob.digest)}: ${error.message}`, { details: { digest: blob.digest } });
  }
  const code = systemCode(error) ?? '';
  if (!/^(Z_|ZSTD_|ERR_)/.test(code)) return error;
  return new BangerError('corrupt', `The layer ${short(blob.digest)} cannot be unpacked: ${messageOf(error)}.`, {
    cause: error,
    hint: AGAIN,
    details: { digest: blob.digest },
  });
}

/** By how it begins: what a manifest says of it is not always so. */
async function decompressorOf(blob: LayerBlob): Promise<Transform | undefined> {
  await using file = await openLayer(blob);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
  if (bytesRead < 4) return undefined;
  if (buffer.readUInt16LE(0) === 0x8b1f) return createGunzip({ chunkSize: CHUNK_BYTES });
  // frames with data, and frames that are skipped (RFC 8878, 3.1)
  const magic = buffer.readUInt32LE(0);
  const isZstd = magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50;
  return isZstd ? createZstdDecompress({ chunkSize: CHUNK_BYTES }) : undefined;
}
