/** Files of an ext4 file system, read by debugfs from outside. */
import { posix } from 'node:path';
import { Writable } from 'node:stream';
import { MIB } from '../../units.ts';
import { diskReader } from '../handover.ts';
import type { Host } from '../host.ts';

/** debugfs reads a few MiB out of a file; on a damaged one it may not come to an end. */
const DEBUGFS_TIMEOUT_MS = 60_000;
const MAX_FILE_BYTES = 64 * MIB;
const MAX_LINKS = 10;

export interface GuestFiles {
  /** Links are followed; undefined when there is no such file. */
  read(path: string): Promise<Buffer | undefined>;
  /** Names in a directory; none when there is no such directory. */
  list(path: string): Promise<string[]>;
}

/** What may stand in one of its commands; the paths of kernels and their modules are no others. */
const PLAIN_PATH = /^\/[\w.+~@/-]{0,1000}$/;

export function guestFiles(host: Pick<Host, 'config' | 'system'>, rootfs: string, signal: AbortSignal): GuestFiles {
  const { debugfs } = host.config.programs;
  const options = { timeoutMs: DEBUGFS_TIMEOUT_MS, signal };
  const ask = async (command: string) => (await diskReader(host).run([debugfs, '-R', command, rootfs], options)).stdout;
  // debugfs follows no link at the end of a path
  const follow = async (path: string, left = MAX_LINKS): Promise<{ path: string; type: string } | undefined> => {
    if (!PLAIN_PATH.test(path)) return undefined;
    const stat = await ask(`stat ${path}`);
    const [, target] = /^Fast link dest: "([^"\n]{1,100})"/m.exec(stat) ?? [];
    if (target !== undefined) {
      return left === 0 ? undefined : await follow(posix.resolve(posix.dirname(path), target), left - 1);
    }
    const [, type] = /^Inode: \d+ +Type: (\w+)/m.exec(stat) ?? [];
    return type === undefined ? undefined : { path, type };
  };
  return {
    async read(path) {
      const found = await follow(path);
      if (found?.type !== 'regular') return undefined;
      const chunks: Buffer[] = [];
      let bytes = 0;
      const output = new Writable({
        write(chunk: Buffer, _encoding, done) {
          bytes += chunk.length;
          if (bytes <= MAX_FILE_BYTES) chunks.push(chunk);
          done();
        },
      });
      await diskReader(host).run([debugfs, '-R', `cat ${found.path}`, rootfs], { ...options, output });
      return Buffer.concat(chunks);
    },
    async list(path) {
      const found = await follow(path);
      if (found?.type !== 'directory') return [];
      // /inode/mode/uid/gid/name/size/
      const lines = (await ask(`ls -p ${found.path}`)).split('\n').map((line) => line.split('/'));
      return lines.flatMap(([, inode, , , , name]) => (name && inode !== '0' && !/^\.{1,2}$/.test(name) ? [name] : []));
    },
  };
}
