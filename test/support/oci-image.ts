/** OCI images made on the spot: layers packed by GNU tar out of directories, in a layout as programs exchange them. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';

export interface SampleLayer {
  /** plain tar archive */
  tar: Buffer;
  packedBy?: 'gzip' | 'zstd' | 'nothing';
}

export interface SampleImage {
  layers: readonly SampleLayer[];
  /** the part of the configuration that says what runs */
  config?: Record<string, unknown>;
  architecture?: string;
  /** replaces what the configuration would say of the layers */
  diffIds?: readonly string[];
}

const NAMES = { x64: 'amd64', arm64: 'arm64' } as Record<string, string>;

export function sha256(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** A directory as a layer: owners, attributes and holes as they are there. */
export function tarOf(directory: string, ...more: string[]): Buffer {
  const own = ['--create', '--sparse', '--xattrs', '--xattrs-include=*', '--format=posix', '--sort=name'];
  return execFileSync('tar', [...own, ...more, '--directory', directory, '.'], { maxBuffer: 2 ** 30 });
}

export async function writeOciLayout(directory: string, image: SampleImage): Promise<{ layers: string[] }> {
  const blobs = join(directory, 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  const put = async (bytes: Buffer) => {
    await writeFile(join(blobs, sha256(bytes).slice(7)), bytes);
    return { digest: sha256(bytes), size: bytes.length };
  };
  const layers: { mediaType: string; digest: string; size: number }[] = [];
  for (const { tar, packedBy = 'gzip' } of image.layers) {
    const packed = packedBy === 'gzip' ? gzipSync(tar) : packedBy === 'zstd' ? zstdCompressSync(tar) : tar;
    const suffix = packedBy === 'nothing' ? '' : `+${packedBy}`;
    layers.push({ mediaType: `application/vnd.oci.image.layer.v1.tar${suffix}`, ...(await put(packed)) });
  }
  const config = {
    architecture: image.architecture ?? NAMES[process.arch],
    os: 'linux',
    config: image.config ?? {},
    rootfs: { type: 'layers', diff_ids: image.diffIds ?? image.layers.map(({ tar }) => sha256(tar)) },
  };
  const configBlob = await put(Buffer.from(JSON.stringify(config)));
  const manifest = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...configBlob },
    layers,
  };
  const manifestBlob = await put(Buffer.from(JSON.stringify(manifest)));
  const index = {
    schemaVersion: 2,
    manifests: [{ mediaType: manifest.mediaType, ...manifestBlob }],
  };
  await writeFile(join(directory, 'index.json'), JSON.stringify(index));
  await writeFile(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return { layers: layers.map(({ digest }) => digest) };
}

export interface RawEntry {
  path: string;
  /** the type's letter in the header; `0` for files */
  type?: string;
  target?: string;
  data?: string;
  mode?: number;
  uid?: number;
  gid?: number;
  /** records of a PAX header in front of it */
  pax?: Record<string, string>;
  /** size in the header, if it is not that of the data */
  size?: number;
}

/** An archive that no tar program would write. */
export function rawTar(entries: readonly RawEntry[]): Buffer {
  const parts = entries.flatMap((entry) => {
    const pax = Object.entries(entry.pax ?? {}).map(([key, value]) => paxRecord(key, value));
    const before = pax.length === 0 ? [] : [rawEntry({ path: 'pax', type: 'x', data: pax.join('') })];
    return [...before, rawEntry(entry)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length += 1;
  return `${length}${rest}`;
}

function rawEntry({
  path,
  type = '0',
  target = '',
  data = '',
  mode = 0o644,
  uid = 0,
  gid = 0,
  size,
}: RawEntry): Buffer {
  const header = Buffer.alloc(512);
  const octal = (value: number, at: number, length: number) =>
    header.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');
  const body = Buffer.from(data, 'latin1');
  header.write(path, 0, 100, 'latin1');
  octal(mode, 100, 8);
  octal(uid, 108, 8);
  octal(gid, 116, 8);
  octal(size ?? body.length, 124, 12);
  octal(1_700_000_000, 136, 12);
  header.write('        ', 148, 'latin1');
  header.write(type, 156, 'latin1');
  header.write(target, 157, 100, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  octal(0, 329, 8);
  octal(0, 337, 8);
  octal(
    header.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return Buffer.concat([header, body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}

/** Puts one more layer on the image of a layout, and says what runs in it from then on. */
export async function extendOciLayout(layout: string, tar: Buffer, config: Record<string, unknown>): Promise<void> {
  const blob = (digest: string) => join(layout, 'blobs/sha256', digest.slice(7));
  const read = async (path: string) => JSON.parse(await readFile(path, 'utf8'));
  const put = async (bytes: Buffer) => {
    await writeFile(blob(sha256(bytes)), bytes);
    return { digest: sha256(bytes), size: bytes.length };
  };
  const index = await read(join(layout, 'index.json'));
  const manifest = await read(blob(index.manifests[0].digest));
  const before = await read(blob(manifest.config.digest));
  const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...(await put(gzipSync(tar))) };
  const rootfs = { type: 'layers', diff_ids: [...before.rootfs.diff_ids, sha256(tar)] };
  const { history: _, ...rest } = before;
  const configBlob = await put(Buffer.from(JSON.stringify({ ...rest, config, rootfs })));
  const layers = [...manifest.layers, layer];
  const extended = { ...manifest, layers, config: { ...manifest.config, ...configBlob } };
  const manifestBlob = await put(Buffer.from(JSON.stringify(extended)));
  await writeFile(
    join(layout, 'index.json'),
    JSON.stringify({ ...index, manifests: [{ ...index.manifests[0], ...manifestBlob }] }),
  );
}
