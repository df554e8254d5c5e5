import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { BangerError } from '../src/errors.ts';

describe('an error in other words', () => {
  const error = new BangerError('timeout', 'It took too long.', { hint: 'wait', details: { seconds: 3 } });

  it('keeps what it is, what helps and what is known, and names the first one as its cause', () => {
    const { code, message, hint, details, cause } = error.reworded('web took too long.');
    assert.deepEqual(
      { code, message, hint, details, cause },
      { code: 'timeout', message: 'web took too long.', hint: 'wait', details: { seconds: 3 }, cause: error },
    );
  });

  it('has another hint and more details where they are given', () => {
    const { hint, details } = error.reworded('x', { hint: 'go', details: { name: 'web' } });
    assert.deepEqual({ hint, details }, { hint: 'go', details: { seconds: 3, name: 'web' } });
    assert.equal(new BangerError('conflict', 'a').reworded('b').details, undefined);
  });
});
