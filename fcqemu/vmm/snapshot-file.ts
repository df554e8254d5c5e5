/**
 * fcqemu's snapshot files: a header that says how to build the same machine again, QEMU's device state, and a
 * checksum. Firecracker cannot read them, nor fcqemu Firecracker's: magic numbers differ on purpose.
 */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { ioErrorText } from '../fault.ts';
import type { QemuSpec } from '../qemu/arguments.ts';
import type { StoredMachineConfig } from './machine-config.ts';
import type { StoredMmdsConfig } from './mmds/store.ts';
import type { StoredBootSource } from './resources.ts';

/** Version of the format, printed by `--snapshot-version`. */
export const SNAPSHOT_VERSION = '0.2.0';

const MAGIC = Buffer.from('FCQEMU\x00\x01', 'latin1');
const PREFIX_BYTES = MAGIC.length + 4;
const CRC_BYTES = 4;
/** Device state is tens of kilobytes; what is larger by far is another kind of file. */
const MAX_BYTES = 64 * 1024 * 1024;

export interface SnapshotHeader {
  version: string;
  /** device state is only understood by the same QEMU */
  qemuVersion: string;
  /** how the machine was built; paths as its clients gave them */
  spec: QemuSpec;
  machine: StoredMachineConfig;
  bootSource: StoredBootSource | null;
  mmdsConfig: StoredMmdsConfig | null;
  /** the guest had powered off */
  halted: boolean;
}

/** Why a file is no usable snapshot, in Firecracker's words where it has some. */
export class SnapshotFileError extends Error {}

/** Writes a snapshot file, replacing what was there. */
export async function writeSnapshotFile(path: string, header: SnapshotHeader, state: Buffer): Promise<void> {
  const headerText = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(PREFIX_BYTES);
  MAGIC.copy(prefix);
  prefix.writeUInt32LE(headerText.length, MAGIC.length);
  const content = Buffer.concat([prefix, headerText, state]);
  const trailer = Buffer.alloc(CRC_BYTES);
  trailer.writeUInt32LE(await checksum(content));
  await writeFile(path, Buffer.concat([content, trailer]));
}

/** A snapshot file that was read and checked. */
export interface SnapshotFile {
  header: SnapshotHeader;
  /** device state as QEMU wrote it */
  state: Buffer;
}

/**
 * Reads a snapshot file and checks all of it.
 * @throws SnapshotFileError
 */
export async function readSnapshotFile(path: string): Promise<SnapshotFile> {
  const content = await readWhole(path);
  if (content.length < PREFIX_BYTES + CRC_BYTES) {
    throw new SnapshotFileError('IO Error: File too short to contain CRC');
  }
  if (!content.subarray(0, MAGIC.length).equals(MAGIC)) throw new SnapshotFileError('Invalid magic value');
  const end = content.length - CRC_BYTES;
  if ((await checksum(content.subarray(0, end))) !== content.readUInt32LE(end)) {
    throw new SnapshotFileError('CRC validation failed');
  }
  const stateAt = PREFIX_BYTES + content.readUInt32LE(MAGIC.length);
  const header = JSON.parse(content.toString('utf8', PREFIX_BYTES, stateAt)) as SnapshotHeader;
  return { header, state: content.subarray(stateAt, end) };
}

async function readWhole(path: string): Promise<Buffer> {
  try {
    if ((await stat(path)).size > MAX_BYTES) throw new Error(`more than ${MAX_BYTES} bytes`);
    return await readFile(path);
  } catch (error) {
    throw new SnapshotFileError(`Failed to open snapshot file: ${ioErrorText(error)}`);
  }
}

async function checksum(bytes: Buffer): Promise<number> {
  // most processes never take a snapshot
  const { crc32 } = await import('node:zlib');
  return crc32(bytes);
}
