/** The bill of materials of an image, from the list of its packages and what its root file system says of itself. */
import { packageKinds } from '../../image/package-databases.ts';
import { formatSbom, type SbomFormat } from '../../image/sbom.ts';
import { imageFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { parseOsRelease } from '../../system/os-release.ts';
import { VERSION } from '../../version.ts';
import { packagesOf } from './catalogue.ts';
import { guestFiles } from './guest-files.ts';
import type { ImportHost } from './sources.ts';

const OS_RELEASE = ['/etc/os-release', '/usr/lib/os-release'];

/** @throws BangerError `not_found`, or `conflict` when there is no list of its packages */
export async function viewSbom(
  host: ImportHost,
  name: string,
  format: SbomFormat,
  signal: AbortSignal,
): Promise<Record<string, unknown>> {
  const { id, digest, createdAt } = host.stores.images.get(name);
  const packages = await packagesOf(host, name);
  const { rootfs } = imageFiles(host.config.paths.store, id);
  const isRead = (await readRootVolume(rootfs)).kind === 'ext4';
  const files = guestFiles(host, rootfs, signal);
  const [kind, ...others] = isRead ? await packageKinds(files) : [];
  let release = '';
  for (const path of isRead ? OS_RELEASE : []) release ||= (await files.read(path))?.toString('utf8') ?? '';
  return formatSbom(format, {
    ...{ name, digest, createdAt, packages, distribution: parseOsRelease(release) },
    kind: others.length === 0 ? kind : undefined,
    tool: { name: 'banger', version: VERSION },
  });
}
