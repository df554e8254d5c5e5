/** Writes the documents of an OCI image beside its layer, so that the directory is a layout as programs exchange them (image spec 1.1). */
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface WrittenImage {
  architecture: string;
  /** when it was made, ISO 8601 */
  created: string;
  /** the part that says what runs */
  config: Record<string, unknown>;
  /** gzipped, its blob in the layout already */
  layer: { digest: string; diffId: string; size: number };
}

const TYPES = {
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar+gzip',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
};

/** @returns digest of the manifest; the same image has the same one */
export async function writeImage(layout: string, image: WrittenImage): Promise<string> {
  const { architecture, created, config, layer } = image;
  const put = async (mediaType: string, document: unknown) => {
    const text = JSON.stringify(document);
    const hex = createHash('sha256').update(text).digest('hex');
    await writeFile(join(layout, 'blobs/sha256', hex), text);
    return { mediaType, digest: `sha256:${hex}`, size: Buffer.byteLength(text) };
  };
  const configuration = await put(TYPES.config, {
    ...{ created, architecture, os: 'linux', config },
    rootfs: { type: 'layers', diff_ids: [layer.diffId] },
    history: [{ created, created_by: 'banger image push' }],
  });
  const manifest = await put(TYPES.manifest, {
    ...{ schemaVersion: 2, mediaType: TYPES.manifest, config: configuration },
    layers: [{ mediaType: TYPES.layer, digest: layer.digest, size: layer.size }],
  });
  await writeFile(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }));
  await writeFile(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return manifest.digest;
}
