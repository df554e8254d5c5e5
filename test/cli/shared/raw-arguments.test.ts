import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { unreadableArgument } from '../../../src/cli/shared/raw-arguments.ts';
import { tempDir } from '../../support/temp-dir.ts';

describe('an argument that is not UTF-8', () => {
  it('is named as a shell takes it, and nothing is done', async (t) => {
    const file = join(await tempDir(t), 'cmdline');
    await writeFile(file, Buffer.from("banger\0exec\0web\0it's \xff\0", 'latin1'));
    assert.match(
      (await unreadableArgument(file)) ?? '',
      /^banger: The argument \$'it\\x27s \\xff' is not UTF-8.* Nothing was done\./,
    );
  });

  it('is told from a replacement character that was typed', async (t) => {
    const file = join(await tempDir(t), 'cmdline');
    await writeFile(file, 'banger\0exec\0web\0echo\0\ufffd\0');
    assert.equal(await unreadableArgument(file), undefined);
  });
});
