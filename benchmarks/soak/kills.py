def kills(): raise NotImplementedError
