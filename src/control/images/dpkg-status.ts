/** The packages of a root file system by its dpkg database, read from outside: nothing is mounted and no guest asked. */
import { type InstalledPackage, parseDpkgStatus } from '../../core/packages.ts';
import { diskReader } from '../handover.ts';
import type { Host } from '../host.ts';

const DPKG_STATUS = '/var/lib/dpkg/status';

/** debugfs reads a few MiB out of a file; on a damaged one it may not come to an end. */
const DEBUGFS_TIMEOUT_MS = 60_000;

/** None where there is no dpkg. */
export async function readDpkgPackages(
  host: Pick<Host, 'config' | 'system'>,
  rootfs: string,
  signal: AbortSignal,
): Promise<InstalledPackage[]> {
  const argv = [host.config.programs.debugfs, '-R', `cat ${DPKG_STATUS}`, rootfs] as const;
  const { stdout } = await diskReader(host).run(argv, { timeoutMs: DEBUGFS_TIMEOUT_MS, signal });
  return parseDpkgStatus(stdout);
}
