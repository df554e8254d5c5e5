/** What guests of OCI images get beside their image, taken from the bundle that they boot with, and put behind its initrd. */
import { createHash } from 'node:crypto';
import { appendFile, mkdir, readFile, stat } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { Writable } from 'node:stream';
import { readAgentProgram } from '../../bundle/boot/agent-program.ts';
import { collectSshServer, type ReadGuestFile, toolsArchive } from '../../bundle/boot/guest-tools.ts';
import { INIT_SCRIPT } from '../../bundle/boot/init-script.ts';
import { SSHD_FILES } from '../../bundle/boot/process-boot.ts';
import { ociFiles } from '../../storage/layout.ts';
import { writeFileAtomic } from '../../system/files.ts';
import { MIB } from '../../units.ts';
import { bundleBootFiles } from '../bundles/access.ts';
import { diskReader } from '../handover.ts';
import type { Progress } from '../operations.ts';
import type { ImportHost } from './sources.ts';

const DEBUGFS_TIMEOUT_MS = 60_000;
const MAX_FILE_BYTES = 64 * MIB;
const MAX_LINKS = 10;

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
    const ssh = await collectSshServer(readerOf(host, rootfs, signal));
    if (!ssh)
      progress.warn(`The bundle ${name} has no SSH server of OpenSSH: guests are reached only if the image has one.`);
    archive = toolsArchive(agent, ssh);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await writeFileAtomic(kept, archive, 0o600);
  }
  await appendFile(initrd, archive);
}

/** Files of a file system, read by debugfs, which follows no link at the end of a path. */
function readerOf(host: ImportHost, rootfs: string, signal: AbortSignal): ReadGuestFile {
  const { debugfs } = host.config.programs;
  const options = { timeoutMs: DEBUGFS_TIMEOUT_MS, signal };
  const follow = async (path: string, left: number): Promise<Buffer | undefined> => {
    const { stdout } = await diskReader(host).run([debugfs, '-R', `stat ${path}`, rootfs], options);
    const [, target] = /^Fast link dest: "([^"\n]{1,100})"/m.exec(stdout) ?? [];
    if (target !== undefined) {
      return left === 0 ? undefined : await follow(posix.resolve(posix.dirname(path), target), left - 1);
    }
    if (!/^Inode: \d+ +Type: regular/m.test(stdout)) return undefined;
    const chunks: Buffer[] = [];
    let bytes = 0;
    const output = new Writable({
      write(chunk: Buffer, _encoding, done) {
        bytes += chunk.length;
        if (bytes <= MAX_FILE_BYTES) chunks.push(chunk);
        done();
      },
    });
    await diskReader(host).run([debugfs, '-R', `cat ${path}`, rootfs], { ...options, output });
    return Buffer.concat(chunks);
  };
  return (path) => follow(path, MAX_LINKS);
}
