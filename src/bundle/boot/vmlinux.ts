/**
 * The uncompressed kernel out of a distribution's bzImage, in bounded memory.
 * Layout: the kernel's Documentation/arch/x86/boot.rst (setup header, boot protocol 2.08 and later).
 */
import { createReadStream } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { BangerError, messageOf } from '../../errors.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import { type Compression, detectCompression, type UnpackDeps, unpack } from './unpack.ts';

/** No kernel comes near this; a payload that claims more is a decompression bomb. */
const MAX_VMLINUX_BYTES = 1024 ** 3;

interface Payload {
  /** first byte of the compressed kernel in the file */
  offset: number;
  /** number of compressed bytes, without the size the kernel build appends */
  length: number;
  compression: Compression;
  /** size of the kernel that the build appended */
  sizeBytes: number | undefined;
}

/**
 * Writes the ELF kernel inside a bzImage to `output`.
 * @throws BangerError `corrupt` when the file is no bzImage, is cut short or its payload is damaged
 * @throws BangerError `host_unprepared` when the program that unpacks it is not installed
 */
export async function extractVmlinux(
  deps: UnpackDeps,
  bzImage: string,
  output: string,
  signal?: AbortSignal,
): Promise<void> {
  const payload = await findPayload(bzImage);
  const packed = createReadStream(bzImage, { start: payload.offset, end: payload.offset + payload.length - 1 });
  await using target = await open(output, 'w', 0o644);
  let written = 0;
  try {
    for await (const chunk of unpack(packed, payload.compression, deps)) {
      throwIfCancelled(signal);
      written += chunk.length;
      if (written > (payload.sizeBytes ?? MAX_VMLINUX_BYTES)) break;
      await target.writeFile(chunk);
    }
  } catch (error) {
    if (error instanceof BangerError && error.code !== 'corrupt') throw error;
    throw new BangerError('corrupt', `The kernel in ${bzImage} cannot be unpacked: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (payload.sizeBytes !== undefined && written !== payload.sizeBytes) {
    throw new BangerError('corrupt', `The kernel in ${bzImage} unpacks to another size than it says it has.`);
  }
}

async function findPayload(path: string): Promise<Payload> {
  await using file = await open(path);
  const { size } = await file.stat();
  const header = await readAt(file, 0, 0x250);
  if (header.length < 0x250 || header.toString('latin1', 0x202, 0x206) !== 'HdrS') {
    throw new BangerError('corrupt', `${path} is no bzImage: it has no kernel setup header.`);
  }
  const protocol = header.readUInt16LE(0x206);
  if (protocol < 0x208) throw new BangerError('corrupt', `${path} is a kernel older than 2.6.26 (boot protocol).`);
  const setupSectors = header.readUInt8(0x1f1) || 4;
  const offset = (setupSectors + 1) * 512 + header.readUInt32LE(0x248);
  const length = header.readUInt32LE(0x24c);
  if (length < 8 || offset + length > size) {
    throw new BangerError('corrupt', `${path} is cut short: its kernel should end at byte ${offset + length}.`);
  }
  const compression = detectCompression(await readAt(file, offset, 8));
  if (compression === undefined) {
    throw new BangerError('corrupt', `The kernel in ${path} is compressed in a way banger cannot read.`, {
      hint: 'Readable are lz4, gzip, xz and zstd.',
    });
  }
  if (compression === 'none') return { offset, length, compression, sizeBytes: undefined };
  // the last four bytes are the size: gzip's own trailer, or what the kernel build appends to every other format
  const sizeBytes = (await readAt(file, offset + length - 4, 4)).readUInt32LE(0);
  if (sizeBytes > MAX_VMLINUX_BYTES)
    throw new BangerError('corrupt', `The kernel in ${path} claims ${sizeBytes} bytes.`);
  return { offset, length: compression === 'gzip' ? length : length - 4, compression, sizeBytes };
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}
