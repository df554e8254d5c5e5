/**
 * fcqemu's snapshot files: a header that says how to build the same machine again, QEMU's device state, and a
 * checksum. Firecracker cannot read them, nor fcqemu Firecracker's: magic numbers differ on purpose.
 */
import { createReadStream, createWriteStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { crc32 } from 'node:zlib';
import { ioErrorText } from '../fault.ts';
import type { QemuSpec } from '../qemu/arguments.ts';
import type { StoredMachineConfig } from './machine-config.ts';
import type { StoredMmdsConfig } from './mmds.ts';

/** Version of the format, printed by `--snapshot-version`. */
export const SNAPSHOT_VERSION = '0.1.0';

const MAGIC = Buffer.from('FCQEMU\x00\x01', 'latin1');
const PREFIX_BYTES = MAGIC.length + 4;
const CRC_BYTES = 4;
const MAX_HEADER_BYTES = 1024 * 1024;

export interface SnapshotHeader {
  version: string;
  /** device state is only understood by the same QEMU */
  qemuVersion: string;
  /** how the machine was built; paths as its clients gave them */
  spec: QemuSpec;
  machine: StoredMachineConfig;
  mmdsConfig: StoredMmdsConfig | null;
  /** the guest's memory is part of the device state, and the memory file is empty */
  memoryInState: boolean;
  /** the guest had powered off */
  halted: boolean;
}

/** Why a file is no usable snapshot, in Firecracker's words where it has some. */
export class SnapshotFileError extends Error {}

/** Writes a snapshot file from a stream of device state, replacing what was there. */
export async function writeSnapshotFile(path: string, header: SnapshotHeader, state: Readable): Promise<void> {
  const headerText = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(PREFIX_BYTES);
  MAGIC.copy(prefix);
  prefix.writeUInt32LE(headerText.length, MAGIC.length);
  await pipeline(async function* () {
    let checksum = 0;
    for await (const chunk of chain([prefix, headerText], state)) {
      checksum = crc32(chunk, checksum);
      yield chunk;
    }
    const trailer = Buffer.alloc(CRC_BYTES);
    trailer.writeUInt32LE(checksum);
    yield trailer;
  }, createWriteStream(path));
}

async function* chain(first: Buffer[], rest: Readable): AsyncGenerator<Buffer> {
  yield* first;
  for await (const chunk of rest) yield chunk as Buffer;
}

/**
 * Reads the header and checks the whole file.
 * @throws SnapshotFileError
 */
export async function readSnapshotHeader(path: string): Promise<SnapshotHeader> {
  const size = await fileSize(path);
  if (size < PREFIX_BYTES + CRC_BYTES) throw new SnapshotFileError('IO Error: File too short to contain CRC');
  const file = await open(path, 'r');
  try {
    const prefix = Buffer.alloc(PREFIX_BYTES);
    await file.read(prefix, 0, PREFIX_BYTES, 0);
    if (!prefix.subarray(0, MAGIC.length).equals(MAGIC)) throw new SnapshotFileError('Invalid magic value');
    const headerBytes = prefix.readUInt32LE(MAGIC.length);
    if (headerBytes > MAX_HEADER_BYTES || PREFIX_BYTES + headerBytes + CRC_BYTES > size) {
      throw new SnapshotFileError('IO Error: failed to fill whole buffer');
    }
    const trailer = Buffer.alloc(CRC_BYTES);
    await file.read(trailer, 0, CRC_BYTES, size - CRC_BYTES);
    if ((await checksumOf(path, size - CRC_BYTES)) !== trailer.readUInt32LE(0)) {
      throw new SnapshotFileError('CRC validation failed');
    }
    const text = Buffer.alloc(headerBytes);
    await file.read(text, 0, headerBytes, PREFIX_BYTES);
    return JSON.parse(text.toString('utf8')) as SnapshotHeader;
  } finally {
    await file.close();
  }
}

/** Sends the device state of a checked snapshot file. */
export async function sendState(path: string, target: Writable): Promise<void> {
  const size = await fileSize(path);
  const file = await open(path, 'r');
  const prefix = Buffer.alloc(PREFIX_BYTES);
  await file.read(prefix, 0, PREFIX_BYTES, 0);
  await file.close();
  const start = PREFIX_BYTES + prefix.readUInt32LE(MAGIC.length);
  await pipeline(createReadStream(path, { start, end: size - CRC_BYTES - 1 }), target);
}

async function fileSize(path: string): Promise<number> {
  try {
    const found = await stat(path);
    if (found.isDirectory()) throw Object.assign(new Error('EISDIR'), { code: 'EISDIR' });
    return found.size;
  } catch (error) {
    throw new SnapshotFileError(`Failed to open snapshot file: ${ioErrorText(error)}`);
  }
}

async function checksumOf(path: string, bytes: number): Promise<number> {
  let checksum = 0;
  for await (const chunk of createReadStream(path, { end: bytes - 1 })) checksum = crc32(chunk as Buffer, checksum);
  return checksum;
}
