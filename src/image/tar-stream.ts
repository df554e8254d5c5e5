/** A tar archive of host files as a stream, made while it is read: nothing is held in memory or written to disk. */
import { createReadStream } from 'node:fs';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createTarPacker } from 'modern-tar';

/** An entry of an archive; paths are the guest's, without a leading slash. */
export interface ArchiveItem {
  path: string;
  kind: 'file' | 'directory' | 'link';
  /** permission bits */
  mode: number;
  /** names or numbers as texts; names are looked up in the guest */
  user: string;
  group: string;
  mtime: Date;
  /** bytes of a file */
  size: number;
  /** file on the host that holds the content */
  source?: string;
  /** where a link leads */
  linkTarget?: string;
}

/** A failure to read a file is the stream's error. */
export function tarStream(items: readonly ArchiveItem[]): Readable {
  const { readable, controller } = createTarPacker();
  const output = Readable.fromWeb(readable as Parameters<typeof Readable.fromWeb>[0]);
  void pack(items, controller).catch((error) =>
    output.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  return output;
}

async function pack(
  items: readonly ArchiveItem[],
  controller: ReturnType<typeof createTarPacker>['controller'],
): Promise<void> {
  for (const item of items) {
    const body = controller.add({
      name: item.kind === 'directory' ? `${item.path}/` : item.path,
      mode: item.mode,
      size: item.kind === 'file' ? item.size : 0,
      type: item.kind === 'link' ? 'symlink' : item.kind,
      mtime: within(item.mtime),
      ...(item.linkTarget === undefined ? {} : { linkname: item.linkTarget }),
      ...owner(item),
    });
    if (item.kind === 'file' && item.source !== undefined) {
      await pipeline(createReadStream(item.source), Writable.fromWeb(body));
    } else {
      await body.close();
    }
  }
  controller.finalize();
}

/** Times that the eleven octal digits of a header can hold; others make tar guess. */
const LAST_TIME_MS = (8 ** 11 - 1) * 1000;

function within(time: Date): Date {
  return new Date(Math.min(Math.max(time.getTime(), 0), LAST_TIME_MS));
}

/** A number is meant as one; a name is sent as one, with an id nobody has in case the guest does not know it. */
function owner({ user, group }: Pick<ArchiveItem, 'user' | 'group'>) {
  const isNumber = (text: string) => /^\d+$/.test(text);
  return {
    uid: isNumber(user) ? Number(user) : user === 'root' ? 0 : NOBODY,
    gid: isNumber(group) ? Number(group) : group === 'root' ? 0 : NOBODY,
    uname: isNumber(user) ? '' : user,
    gname: isNumber(group) ? '' : group,
  };
}

const NOBODY = 65_534;
