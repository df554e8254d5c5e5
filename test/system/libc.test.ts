import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { loadLibc } from '../../src/system/libc.ts';

describe('the C library', () => {
  it('has what is there, and nothing where one function is missing', async (t) => {
    const getpid = { arguments: [], return: 'int32' } as const;
    const libc = await loadLibc({ getpid });
    if (!libc) return t.skip('this Node has no node:ffi');
    assert.equal(libc.getpid(), process.pid);
    assert.equal(await loadLibc({ getpid, no_such_function: getpid }), undefined);
  });
});
