/** Following an operation from its beginning to its end. */
import type { Operation, OperationEvent } from '../api/operation.ts';
import { BangerError } from '../errors.ts';
import { readJsonLines } from '../system/json-lines.ts';
import type { Client } from './client.ts';

/**
 * Reads an operation's events, also those before this call, until it is done.
 * @returns the operation as it ended, whatever its outcome
 * @throws BangerError `daemon_unreachable` when the daemon goes away before the end
 */
export async function followOperation(
  client: Client,
  id: string,
  onEvent: (event: OperationEvent) => void,
  signal?: AbortSignal,
): Promise<Operation> {
  const stream = await client.stream('operationEvents', { params: { id }, ...(signal ? { signal } : {}) });
  try {
    for await (const value of readJsonLines(stream)) {
      const event = value as OperationEvent;
      if (event.type === 'done') return event.operation;
      onEvent(event);
    }
  } catch (error) {
    if (signal?.aborted) throw new BangerError('cancelled', 'No longer following the operation.', { cause: error });
    throw lost(id, error);
  } finally {
    stream.destroy();
  }
  throw lost(id, undefined);
}

function lost(id: string, cause: unknown): BangerError {
  return new BangerError('daemon_unreachable', `The daemon went away while operation ${id} was running.`, {
    hint: `banger operation show ${id}`,
    ...(cause === undefined ? {} : { cause }),
  });
}
