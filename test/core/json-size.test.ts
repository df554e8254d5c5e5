/** Documents from elsewhere with millions of values are refused before they are read. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { parseManifest } from '../../src/bundle/store/manifest.ts';
import { readManifest as readImageManifest } from '../../src/control/images/archive.ts';
import { readOciRecord } from '../../src/control/images/oci-record.ts';
import { readManifest as readSnapshotManifest } from '../../src/control/snapshots/archive.ts';
import { isVast } from '../../src/core/json-size.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('the values of a JSON text', () => {
  it('are counted as they stand there, those of lists and objects in each other too', () => {
    for (const [text, values] of [
      ['1', 1],
      ['[1,2,3]', 4],
      // lists and objects count for what may be in them too
      ['{"a":1,"b":[{},[]]}', 7],
      ['[[[[', 5],
    ] as const) {
      assert.ok(!isVast(text, values), text);
      assert.ok(isVast(text, values - 1), text);
    }
  });

  it('are not those of what stands in quotes', () => {
    assert.ok(!isVast(JSON.stringify({ a: '[,{'.repeat(10), b: '\\",[{\\' }), 3));
    assert.ok(isVast('["\\\\",1,2]', 3));
  });

  it('are too many in descriptions of archives and of what lies beside images', async (t) => {
    const path = join(await tempDir(t), 'document.json');
    const text = `{"files":[1${',1'.repeat(300_000)}]}`;
    await writeFile(path, text);
    const refusal = { code: 'corrupt', message: /more values in it than any/ };
    await assert.rejects(parseManifest(text, path), refusal);
    await assert.rejects(readImageManifest(path, 'archive'), refusal);
    await assert.rejects(readSnapshotManifest(path, 'archive'), refusal);
    await assert.rejects(readOciRecord(path), { code: 'corrupt' });
  });
});
