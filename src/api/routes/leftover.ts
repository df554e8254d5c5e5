/** Routes of the trash, and of what belongs to nobody any more. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import type { Route } from './route.ts';

const trashed = z.object({ name: z.string().min(1).describe('name or id of a deleted VM') });

export const leftoverRoutes = {
  listTrash: {
    method: 'GET',
    url: '/v1/trash',
    summary: 'Deleted VMs that can still be had back, newest first',
    response: z.array(s.TrashedVm),
  },
  undeleteVm: {
    method: 'POST',
    url: '/v1/trash/:name/restore',
    summary: 'Have a deleted VM back',
    params: trashed,
    body: s.Undelete,
    response: s.UndeletedVm,
  },
  emptyTrash: {
    method: 'POST',
    url: '/v1/trash/empty',
    summary: 'Throw deleted VMs away for good',
    body: s.TrashEmpty,
    response: s.Operation,
    status: 202,
  },
  collectGarbage: {
    method: 'POST',
    url: '/v1/gc',
    summary: 'Free what belongs to no VM any more, or say what there is',
    body: s.Gc,
    response: s.Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
