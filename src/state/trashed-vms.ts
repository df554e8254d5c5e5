/** VMs in the trash that would boot with an image's kernel again. */
import { messageOf } from '../errors.ts';
import type { Database } from './database.ts';

export interface TrashedVms {
  /** Names of the trashed VMs that were made from the image of this id. */
  madeFrom(imageId: string): string[];
}

export function createTrashedVms(database: Database): TrashedVms {
  const all = database.prepare('SELECT name, record FROM trash ORDER BY name');
  return {
    madeFrom: (imageId) =>
      all.all().flatMap((row) => (imageOf(String(row.record)) === imageId ? [String(row.name)] : [])),
  };
}

function imageOf(record: string): unknown {
  try {
    const value: unknown = JSON.parse(record);
    return typeof value === 'object' && value !== null && 'imageId' in value ? value.imageId : undefined;
  } catch (error) {
    return messageOf(error); // a record nobody can restore needs no image
  }
}
