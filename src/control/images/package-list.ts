/** The list of packages that lies beside an image. */
import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { formatPackageList } from '../../core/packages.ts';
import { findPackages, type RootFiles } from '../../image/package-databases.ts';
import type { Progress } from '../operations.ts';
import { PACKAGES_MEMBER } from './archive.ts';

/**
 * @param rootfs the list gets a place beside it
 * @returns its path; undefined, with a warning, when nothing in the image says which packages there are
 */
export async function writePackageList(
  progress: Progress,
  rootfs: string,
  files: RootFiles,
): Promise<string | undefined> {
  const { packages, problems } = await findPackages(files, dirname(dirname(rootfs)));
  if (packages.length === 0) {
    const why = problems.join('; ') || 'the image has no database of dpkg, apk, rpm or pacman';
    progress.warn(`There is no list of packages: ${why}.`);
    return undefined;
  }
  for (const problem of problems) progress.warn(`The list of packages is incomplete: ${problem}.`);
  const path = join(dirname(rootfs), PACKAGES_MEMBER);
  await writeFile(path, formatPackageList(packages), { mode: 0o600 });
  return path;
}
