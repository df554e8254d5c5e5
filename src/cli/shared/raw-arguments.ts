/** Arguments that are no UTF-8: Linux takes any bytes, Node hands them on as text with the rest replaced. */
import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';

/**
 * The message about the first argument of this process that is not UTF-8; undefined when all are, so that a
 * replacement character was typed.
 */
export async function unreadableArgument(commandLine = '/proc/self/cmdline'): Promise<string | undefined> {
  const bytes = await readFile(commandLine).catch(() => undefined);
  if (!bytes) return undefined;
  for (let at = 0; at < bytes.length; ) {
    const found = bytes.indexOf(0, at);
    const end = found < 0 ? bytes.length : found;
    const word = bytes.subarray(at, end);
    if (!isUtf8(word)) {
      return (
        `banger: The argument ${shown(word)} is not UTF-8, and its bytes cannot be passed on. Nothing was done.\n` +
        '  try: bytes through a pipe: printf ... | banger exec NAME -- sh\n' +
        '       a file of such a name with its directory: banger cp -r DIRECTORY NAME:\n'
      );
    }
    at = end + 1;
  }
  return undefined;
}

/** As bash takes it. */
function shown(word: Buffer): string {
  const text = [...word].map((byte) =>
    byte >= 0x20 && byte < 0x7f && byte !== 0x27 && byte !== 0x5c
      ? String.fromCharCode(byte)
      : `\\x${byte.toString(16).padStart(2, '0')}`,
  );
  return `$'${text.join('')}'`;
}
