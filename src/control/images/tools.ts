/** What guests of OCI images get beside their image, taken from the bundle that they boot with, and put behind its initrd. */
import { createHash } from 'node:crypto';
import { appendFile, mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { readAgentProgram } from '../../bundle/boot/agent-program.ts';
import { collectSshServer, toolsArchive } from '../../bundle/boot/guest-tools.ts';
import { INIT_SCRIPT } from '../../bundle/boot/init-script.ts';
import { SSHD_FILES } from '../../bundle/boot/process-boot.ts';
import { ociFiles } from '../../storage/layout.ts';
import { writeFileAtomic } from '../../system/files.ts';
import { bundleBootFiles } from '../bundles/access.ts';
import type { Progress } from '../operations.ts';
import { guestFiles } from './guest-files.ts';
import type { ImportHost } from './sources.ts';

/** Adds them to the initrd of an image that is being made. */
export async function addTools(
  work: { host: ImportHost; progress: Progress; signal: AbortSignal },
  bundle: string | undefined,
  initrd: string,
): Promise<void> {
  const { host, progress, signal } = work;
  const { rootfs, name } = await bundleBootFiles(host.config, bundle);
  const agent = await readAgentProgram();
  const { size, mtimeMs } = await stat(rootfs);
  const key = createHash('sha256')
    .update(JSON.stringify([rootfs, size, mtimeMs, INIT_SCRIPT, SSHD_FILES]))
    .update(agent);
  const { directory } = ociFiles(host.config.paths.store);
  const kept = join(directory, `tools-${key.digest('hex').slice(0, 16)}.cpio`);
  let archive: Buffer | undefined = await readFile(kept).catch(() => undefined);
  if (!archive) {
    progress.step('collect-tools', `taking an SSH server from ${name}`);
    const ssh = await collectSshServer(guestFiles(host, rootfs, signal).read);
    if (!ssh)
      progress.warn(`The bundle ${name} has no SSH server of OpenSSH: guests are reached only if the image has one.`);
    archive = toolsArchive(agent, ssh);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await writeFileAtomic(kept, archive, 0o600);
  }
  await appendFile(initrd, archive);
}
